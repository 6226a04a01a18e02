"""Selection on cross-validated label maps: what must be kept, what must not, and what is continued."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from medseg.errors import DataError
from medseg.evaluation import Evaluation, score_case
from medseg.evaluation.folders import Pair
from medseg.evaluation.result import CaseScores
from medseg.inference import Predictor
from medseg.inference.settings import Execution, LabelSettings
from medseg.io.datalist import Case
from medseg.io.header import Header, Volume
from medseg.io.volume import read_image, read_label, write_image, write_label
from medseg.selection.cross_validation import (
    Candidate,
    choose_candidate,
    choose_postprocessing,
    compare,
    predict_out_of_fold,
)
from medseg.transforms.preprocessing import Prepared, Preprocessing

LABELS = {0: "background", 1: "organ", 2: "tumour"}
AFFINE = np.eye(4)
CASES = 8


def _reference(seed: int) -> np.ndarray:
    """An organ that is one piece, and a tumour that is truly two pieces."""
    shift = seed % 3
    label = np.zeros((24, 20, 18), dtype=np.uint8)
    label[4 + shift : 12 + shift, 4:12, 4:12] = 1
    label[16:18, 14:16, 4:6] = 2
    label[20:23, 14:17, 10:13] = 2
    return label


def _save(path: Path, label: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_label(path, label, like=Header.of_array(label.shape, AFFINE))
    return path


def _pairs(folder: Path, *, stray: bool) -> list[Pair]:
    pairs = []
    for i in range(CASES):
        reference = _reference(i)
        prediction = reference.copy()
        prediction[4 + i % 3, 4:12, 4:12] = 0  # a missed layer, so that nothing is perfect
        if stray:
            prediction[1, 1, 1 + i % 2 : 3] = 1  # a few voxels of organ far away
            prediction[8, 8, 8] = 0  # and a hole
        name = f"case{i}"
        pairs.append(
            (
                name,
                _save(folder / "p" / f"{name}.nii.gz", prediction),
                _save(folder / "r" / f"{name}.nii.gz", reference),
            )
        )
    return pairs


def test_steps_that_help_are_kept_for_the_label_they_help(tmp_path: Path) -> None:
    selection = choose_postprocessing(_pairs(tmp_path, stray=True), LABELS)
    kinds = {(step["kind"], *step["labels"]) for step in selection.steps}
    assert ("fill_holes", 1) in kinds
    assert kinds & {("largest_component", 1), ("minimum_size", 1)}
    assert not any(2 in step["labels"] for step in selection.steps)  # the tumour has two true pieces
    harmful = [t for t in selection.trials if t.label == "tumour" and t.step["kind"] == "largest_component"]
    assert harmful[0].difference.mean < 0
    assert not harmful[0].kept
    for trial in selection.trials:  # a step that was refused in one round and taken in a later one was kept only there
        assert not trial.kept or trial.difference.low > 0, trial
    taken = [trial.step for trial in selection.trials if trial.kept]
    assert sorted(map(str, taken)) == sorted(map(str, selection.steps))


def test_nothing_is_kept_when_nothing_helps(tmp_path: Path) -> None:
    selection = choose_postprocessing(_pairs(tmp_path, stray=False), LABELS)
    assert selection.steps == []
    assert {trial.step["kind"] for trial in selection.trials} == {"largest_component", "minimum_size", "fill_holes"}


def _evaluation(shifts: list[int], names: list[str] | None = None) -> Evaluation:
    cases = []
    for i, shift in enumerate(shifts):
        reference = _reference(i)
        prediction = np.roll(reference, shift, axis=0)
        scores = score_case(reference, prediction, spacing=(1, 1, 1), regions={"organ": (1,), "tumour": (2,)})
        cases.append(CaseScores((names or [f"case{i}" for i in range(len(shifts))])[i], scores))
    return Evaluation(cases, {"organ": (1,), "tumour": (2,)})


def test_the_better_network_is_chosen_and_the_difference_has_its_sign() -> None:
    evaluations = {"good": _evaluation([0, 1, 0, 1, 0, 1]), "bad": _evaluation([1, 2, 1, 2, 1, 2])}
    found = {entry.label: entry for entry in compare(evaluations)}
    assert set(found) == {"mean over labels", "organ", "tumour"}
    assert found["organ"].difference.low > 0
    assert found["organ"].difference.better == 6
    assert found["organ"].adjusted_p >= found["organ"].difference.p_value
    assert choose_candidate(evaluations) == "good"


def test_an_ensemble_must_be_clearly_better() -> None:
    single, equal = _evaluation([0, 1, 1, 1, 0, 1]), _evaluation([1, 0, 1, 1, 0, 1])
    assert choose_candidate({"a": single, "b": single, "a+b": equal}, ["a+b"]) == "a"
    assert choose_candidate({"a": single, "a+b": _evaluation([0] * 6)}, ["a+b"]) == "a+b"


def test_only_common_cases_are_compared() -> None:
    left = _evaluation([0, 0, 3], ["x", "y", "only_left"])
    right = _evaluation([0, 0], ["x", "y"])
    assert compare({"left": left, "right": right})[0].difference.count == 2
    assert choose_candidate({"left": left, "right": right}) == "left"  # equal on x and y
    with pytest.raises(DataError, match="no validation case in common"):
        compare({"left": left, "other": _evaluation([0], ["z"])})


class _Bright(torch.nn.Module):
    """The class 1 + fold where the image is bright, background elsewhere."""

    def __init__(self, fold: int) -> None:
        super().__init__()
        self.fold = fold

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bright = (x[:, :1] > 0).float()
        classes = [1 - bright, torch.zeros_like(bright), torch.zeros_like(bright)]
        classes[1 + self.fold] = bright
        return 10 * torch.cat(classes, dim=1)


class _Copy(Predictor):
    """Predicts with `_Bright`, and counts its cases."""

    calls = 0

    def __init__(self, fold: int, channels: int = 1) -> None:
        keep = Preprocessing(None, [{"kind": "none"}] * channels)
        execution = Execution(engine="eager", confidence=True)
        super().__init__(_Bright(fold), keep, LabelSettings(roi_size=(24, 20, 18)), execution)

    def prepare(self, volume: Volume) -> Prepared:
        type(self).calls += 1
        return super().prepare(volume)


def _candidate(folder: Path, **changes: Any) -> Candidate:
    folds = {}
    for fold in (0, 1):
        cases = []
        for i in range(2):
            name = f"f{fold}_{i}"
            image, label = folder / f"{name}_image.nii.gz", _save(folder / f"{name}_label.nii.gz", _reference(i))
            array = _reference(i)[None].astype(np.float32)
            write_image(image, array, like=Header.of_array(array.shape, AFFINE))
            cases.append(Case(name, (image,), label))
        folds[fold] = cases
    values: dict[str, Any] = {
        "name": "net",
        "folds": folds,
        "predictor": _Copy,
        "identity": {0: "a", 1: "b"},
        "labels": LABELS,
    }
    return Candidate(**(values | changes))


def test_each_case_is_segmented_by_its_own_fold_and_only_once(tmp_path: Path) -> None:
    _Copy.calls = 0
    pairs = predict_out_of_fold(_candidate(tmp_path), tmp_path / "out")
    assert [name for name, _, _ in pairs] == ["f0_0", "f0_1", "f1_0", "f1_1"]
    assert [int(read_label(path).array.max()) for _, path, _ in pairs] == [1, 1, 2, 2]
    assert _Copy.calls == 4
    pairs[3][1].unlink()
    predict_out_of_fold(_candidate(tmp_path), tmp_path / "out")
    assert _Copy.calls == 5
    predict_out_of_fold(_candidate(tmp_path, identity={0: "a", 1: "other weights"}), tmp_path / "out")
    assert _Copy.calls == 7


def test_a_map_of_another_image_or_one_that_was_damaged_is_made_again(tmp_path: Path) -> None:
    candidate = _candidate(tmp_path)
    pairs = predict_out_of_fold(candidate, tmp_path / "out")
    _Copy.calls = 0
    (image,) = candidate.folds[0][1].images
    empty = np.zeros((1, 24, 20, 18), np.float32)
    write_image(image, empty, like=Header.of_array(empty.shape, AFFINE))
    predict_out_of_fold(candidate, tmp_path / "out")
    assert (_Copy.calls, int(read_label(pairs[1][1]).array.max())) == (1, 0)
    pairs[2][1].write_bytes(pairs[2][1].read_bytes()[:-20])  # cut short
    pairs[3][1].write_bytes(pairs[0][1].read_bytes())  # a map of another case
    predict_out_of_fold(candidate, tmp_path / "out")
    assert _Copy.calls == 3
    assert [int(read_label(path).array.max()) for _, path, _ in pairs] == [1, 0, 2, 2]
    predict_out_of_fold(candidate, tmp_path / "out")
    assert _Copy.calls == 3


def test_detached_voxels_and_the_order_of_channels_belong_to_the_image(tmp_path: Path) -> None:
    candidate = _candidate(tmp_path)
    case = candidate.folds[0][0]
    pair = tmp_path / "pair.hdr"
    nib.save(nib.Nifti1Pair(read_image(case.images).array[0], AFFINE), pair)
    voxels = pair.with_suffix(".img")
    old = Candidate("net", {0: [Case("x", (pair,), case.label)]}, candidate.predictor, {0: "a"}, LABELS)
    ((_, path, _),) = predict_out_of_fold(old, tmp_path / "out")
    assert read_label(path).array.any()
    voxels.write_bytes(bytes(voxels.stat().st_size))
    predict_out_of_fold(old, tmp_path / "out")
    assert not read_label(path).array.any()
    _Copy.calls = 0
    for images in ((pair, *case.images), (*case.images, pair)):
        two = functools.partial(_Copy, channels=2)
        changed = Candidate("net", {0: [Case("x", images, case.label)]}, two, {0: "a"}, LABELS)
        predict_out_of_fold(changed, tmp_path / "out")
    assert _Copy.calls == 2


def test_a_case_in_two_folds_or_without_reference_is_refused(tmp_path: Path) -> None:
    candidate = _candidate(tmp_path)
    twice = {0: candidate.folds[0], 1: candidate.folds[0]}
    with pytest.raises(DataError, match="validation case of folds 0 and 1"):
        predict_out_of_fold(_candidate(tmp_path, folds=twice), tmp_path / "out")
    bare = {0: [Case("x", candidate.folds[0][0].images)]}
    with pytest.raises(DataError, match="no reference"):
        predict_out_of_fold(_candidate(tmp_path, folds=bare), tmp_path / "out")
