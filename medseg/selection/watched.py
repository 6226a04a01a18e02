"""What else is kept of an out-of-fold prediction: sums of the network's outputs, facts of the image, logits at a few voxels."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.inference import Predictor
from medseg.inference.evidence import image_facts
from medseg.inference.windows.confidence import LogitSamples
from medseg.io.atomic import atomic_path
from medseg.io.datalist import Case
from medseg.io.header import Volume
from medseg.io.volume import read_label

PER_OUTPUT = 200  # voxels of a case and output
MOST = 4000  # of a case
NEAR = 3  # voxels around the foreground, which background is sampled from as much as from everything else
SUMS = ("size", "inside", "total", "doubt", "agreement")


@dataclass(frozen=True)
class Watched:
    """Facts of one out-of-fold prediction.

    Args:
        sums: `Predictor.confidence`.
        image: `image_facts`.
        logits: (N, K) at sampled voxels; empty where nothing could be sampled.
        truth: (N,) index of the true output.
        weight: (N,) voxels that each stands for.
    """

    sums: Mapping[str, NDArray[np.float64]]
    image: Mapping[str, float]
    logits: NDArray[np.float32]
    truth: NDArray[np.int64]
    weight: NDArray[np.float64]

    @classmethod
    def read(cls, path: Path) -> Watched | None:
        """What `predict_watched` wrote; None where it is missing or broken."""
        try:
            with np.load(path, allow_pickle=False) as found:
                sums = {name: found[name] for name in SUMS if name in found}
                image = dict(zip(found["image_names"].tolist(), found["image_values"].tolist(), strict=True))
                return cls(sums, image, found["logits"], found["truth"], found["weight"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None


def facts_path(label_map: Path) -> Path:
    """Where the facts of an out-of-fold label map lie."""
    return label_map.with_name(label_map.name.removesuffix(".nii.gz") + ".facts.npz")


def predict_watched(predictor: Predictor, case: Case, path: Path, volume: Volume) -> NDArray[np.integer[Any]]:
    """The label map of a case, bit-equal to `predictor.predict`; the facts go to a path.

    Args:
        predictor: made with `Execution.confidence`.
        case: with its reference, of which voxels are sampled; one with some labels only is not sampled.
        path: see `facts_path`.
        volume: the image.
    """
    assert case.label is not None
    prepared = predictor.prepare(volume)
    image = image_facts(prepared.image)
    values = predictor.label_values
    sampled = case.labels_present is None and not predictor.settings.regions
    outputs = None if values is None else [int(value) for value in values]
    truth, weight = _voxels(read_label(case.label).array, outputs) if sampled else (None, None)
    if truth is None or weight is None or truth.shape != prepared.source_shape:
        label, watcher, chosen = predictor.segment(prepared), None, np.zeros((0, 3), int)
    else:
        chosen = np.argwhere(weight > 0)
        shares = len(predictor.networks) > 1 and predictor.combine == "probabilities"
        watcher = LogitSamples(weight > 0, shares=shares)
        label = predictor.segment(prepared, watchers=[watcher])
    found = None if watcher is None else watcher.values
    if found is None or truth is None or weight is None:
        logits, true, weights = np.zeros((0, 0), np.float32), np.zeros(0, np.int64), np.zeros(0)
    else:
        at = tuple(chosen.T)
        seen = np.isfinite(found).all(1) & (truth[at] < found.shape[1])
        logits, true, weights = found[seen], truth[at][seen].astype(np.int64), weight[at][seen]
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        arrays: dict[str, Any] = {"logits": logits, "truth": true, "weight": weights}
        arrays |= {"image_names": np.array(list(image), dtype=np.str_), "image_values": np.array(list(image.values()))}
        arrays |= {name: value for name, value in predictor.confidence.items() if len(value)}
        np.savez(stream, **arrays)
    return label


def _voxels(
    reference: NDArray[np.integer[Any]], outputs: Sequence[int] | None
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Index of the true output of every voxel, and how many voxels a chosen one stands for (0: not chosen).

    Each output's voxels are drawn alike; of the background half lie near the foreground, where it may be mistaken.
    """
    values = outputs if outputs is not None else sorted({0, *np.unique(reference).tolist()})
    truth = np.full(reference.shape, -1, dtype=np.int32)
    for output, value in enumerate(values):
        truth[reference == value] = output if outputs is not None else value
    foreground = truth > 0
    near = ndimage.binary_dilation(foreground, iterations=NEAR) & ~foreground if foreground.any() else foreground
    background = truth == 0
    strata = [background & near, background & ~near]
    strata += [truth == output for output in np.unique(truth[foreground]).tolist()]
    quota = max(1, min(PER_OUTPUT, MOST // len(strata)))
    random = np.random.default_rng(0)
    weight = np.zeros(reference.shape, dtype=np.float64)
    for stratum in strata:
        places = np.flatnonzero(stratum)
        if len(places):
            drawn = random.choice(places, size=min(quota, len(places)), replace=False)
            weight.reshape(-1)[drawn] = len(places) / len(drawn)
    return truth, weight
