"""Sides and millimetres of the viewer are the patient's, however the file stores them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

from medseg.evaluation.report.sections import Scene
from tests.evaluation.report.viewer.chromium import Seen, visit
from tests.evaluation.report.viewer.pages import STORED, page_of, stored_as

pytestmark = pytest.mark.slow
COLOR = (0xE1, 0x69, 0x2D)  # of the first label
BASE = np.array([[2.0, 0, 0, -31.0], [0, 1.5, 0, 14.0], [0, 0, 3.0, 200.5], [0, 0, 0, 1]])
OPPOSITE = {"L": "R", "A": "P", "S": "I"}


def _planes(seen: Seen) -> list[dict[str, tuple[str, float, float]]]:
    """Of each plane the letter and the place (CSS pixels of the stage) of its west, east, north and south mark."""
    marks = seen.page.evaluate(
        "Array.from(document.querySelectorAll('#viewer .mark'), (m) => [m.className.split(' ')[1], m.textContent, "
        "parseFloat(m.style.left), parseFloat(m.style.top)])"
    )
    assert len(marks) == 12
    return [{side: (letter, x, y) for side, letter, x, y in marks[i : i + 4]} for i in (0, 4, 8)]


@pytest.mark.parametrize("how", STORED)
@pytest.mark.parametrize("side", ["L", "A", "S"])
def test_a_label_of_one_side_appears_on_the_marked_side(browser: Any, tmp_path: Path, how: str, side: str) -> None:
    label = np.zeros((36, 40, 28), np.uint8)
    middle = [slice(n // 2 - 3, n // 2 + 3) for n in label.shape]
    middle["LAS".index(side)] = slice(4, 10) if side == "L" else slice(-10, -4)
    label[tuple(middle)] = 1
    label[0, 0, 0] = label[-1, -1, -1] = 2  # so that the page shows the whole volume
    array, affine = stored_as(label, BASE, how)
    seen = visit(
        browser, page_of(tmp_path / "a.html", [Scene("a", np.zeros(array.shape), array, None, affine)], {1: "one"})
    )
    assert seen.ready() == ""
    page = seen.page
    page.get_by_role("button", name="find one").click()
    page.uncheck("#viewer-crosshair")
    page.evaluate(
        "(o) => { o.value = 1; o.dispatchEvent(new Event('input')); }", page.query_selector("#viewer-opacity")
    )
    pixels = np.asarray(Image.open(io.BytesIO(page.locator("#viewer-stage").screenshot())).convert("RGB"), int)
    colored = np.abs(pixels - COLOR).sum(axis=2) < 30
    seen_in = 0
    for plane in _planes(seen):
        (west, left, _), (east, right, _) = plane["w"], plane["e"]
        (north, _, top), (south, _, below) = plane["n"], plane["s"]
        assert (west, east) in (("R", "L"), ("A", "P"))  # radiological, nose at the left
        y, x = np.nonzero(colored[int(top) : int(below), int(left) : int(right)])
        assert len(x) > 20
        across, down = x.mean() / (right - left), y.mean() / (below - top)
        for letters, share in (((west, east), across), ((north, south), down)):
            if side in letters:
                seen_in += 1
                assert (share < 0.4) == (letters[0] == side)
                assert (share > 0.6) == (letters[1] == side)
                assert set(letters) == {side, OPPOSITE[side]}
    assert seen_in == 2


@pytest.mark.parametrize("how", STORED)
def test_millimetres_of_the_crosshair_are_nibabels(browser: Any, tmp_path: Path, how: str) -> None:
    random = np.random.default_rng(3)
    shape = (61, 47, 39)
    image, label = np.zeros(shape, np.float32), np.zeros(shape, np.uint8)
    places = np.unique(random.integers(1, 38, (24, 3)), axis=0)[:20]
    for value, place in enumerate(places, start=1):
        label[tuple(place)] = value
    label[0, 0, 0] = label[-1, -1, -1] = 99
    (image, affine), (label, _) = stored_as(image, BASE, how), stored_as(label, BASE, how)
    names = {value: f"point {value:02d}" for value in range(1, 21)}
    seen = visit(browser, page_of(tmp_path / "a.html", [Scene("a", image, label, None, affine)], names))
    assert seen.ready() == ""
    seen.page.select_option(
        "#viewer-view", "axial"
    )  # without the 3D view, which takes most of the time of a software renderer
    file = nibabel.Nifti1Image(label, affine)
    worst = 0.0
    for value, name in names.items():
        seen.page.get_by_role("button", name=f"find {name}").click()
        (voxel,) = np.argwhere(label == value)
        expected = nibabel.affines.apply_affine(file.affine, voxel)
        worst = max(worst, float(np.abs(np.subtract(seen.place(), expected)).max()))
        assert seen.named("prediction") == name  # what the engine finds in its own voxels there
    assert worst <= 0.01


@pytest.mark.parametrize("how", STORED)
def test_what_is_clicked_is_the_voxel_of_the_file(browser: Any, tmp_path: Path, how: str) -> None:
    random = np.random.default_rng(5)
    coarse = random.integers(0, 9, (6, 6, 5)).astype(np.uint8)
    label, affine = stored_as(np.kron(coarse, np.ones((6, 6, 6), np.uint8)), BASE, how)
    seen = visit(browser, page_of(tmp_path / "a.html", [Scene("a", np.zeros(label.shape), label, None, affine)], {}))
    assert seen.ready() == ""
    right = 0
    for number in range(20):
        plane = _planes(seen)[number % 3]
        box = [plane["w"][1] - 4, plane["n"][2] - 4, plane["e"][1] + 4, plane["s"][2] + 4]
        x, y = (box[i] + (box[i + 2] - box[i]) * random.uniform(0.1, 0.9) for i in (0, 1))
        seen.page.locator("#viewer-canvas").click(position={"x": x, "y": y})
        voxel = np.round(nibabel.affines.apply_affine(np.linalg.inv(affine), seen.place())).astype(int)
        value = int(label[tuple(voxel)])
        named = seen.named("prediction")
        right += named.split(" ")[0] == (str(value) if value else "none")
    assert right == 20
