"""Colours of labels and errors, and which way a slice is shown."""

from __future__ import annotations

import numpy as np

from medseg.evaluation.report import slices
from medseg.evaluation.report.slices import overlay

from .test_sections import _light, _pixels

# How three kinds of colour-blind eyes see linear light: Machado, Oliveira and Fernandes 2009, severity 1
EYES = (
    np.eye(3),
    np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
    np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]),
)
# Linear light to OKLab: Ottosson 2020
TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def test_twelve_labels_are_told_apart_by_every_kind_of_eye() -> None:
    light = np.array([_light(color) for color in slices.COLORS])
    assert len(light) == 12
    for eye in EYES:
        lab = np.cbrt(np.clip(light @ eye.T, 0, 1) @ TO_CONES.T) @ TO_LAB.T
        apart = np.linalg.norm(lab[:, None] - lab[None], axis=2)[np.triu_indices(12, 1)]
        assert apart.min() > 0.13  # about seven times a difference that is just seen


def test_what_is_missed_and_what_is_extra_have_colours_of_their_own() -> None:
    image, reference = np.zeros((40, 40, 40), np.float32), np.zeros((40, 40, 40), np.uint8)
    reference[10:20, 10:30, 10:30] = 1
    prediction = np.roll(
        reference, 10, axis=0
    )  # the missed half lies left of the extra one, on the right of the picture
    pixels = (_pixels(overlay(image, prediction, reference, np.eye(4), zoom=False)) * 255).round().astype(int)
    paints = [tuple(int(color[i : i + 2], 16) for i in (1, 3, 5)) for color in (slices.MISSED, slices.EXTRA)]
    panel = pixels[2 * (slices.PANEL[1] + slices.TITLE) : 3 * (slices.PANEL[1] + slices.TITLE), 2 * slices.PANEL[0] :]
    columns = [np.flatnonzero((panel == paint).all(axis=2).any(axis=0)) for paint in paints]
    assert columns[1].max() < columns[0].min()


def test_the_nose_is_at_the_left_of_a_sagittal_slice() -> None:
    image = np.zeros((9, 30, 9), np.float32)
    image[:, 25:] = 1.0  # RAS: anterior
    pixels = _pixels(overlay(image, None, None, np.eye(4)))[slices.TITLE :, : slices.PANEL[0], 0]
    bright = np.flatnonzero(pixels[slices.PANEL[1] // 2 - 8] > 0.9)
    assert bright.min() < slices.PANEL[0] / 4
    assert np.median(bright) < slices.PANEL[0] / 3
