"""The sets of the second table are found as they are shipped."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest

from medseg.datasets import load_case, open_dataset
from tests.volumes import make_case

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_the_left_atrium_set_is_read_as_nifti_in_its_published_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    sets = importlib.import_module("more_datasets")
    place, names = tmp_path / "left_atrium", [f"C{number:02}" for number in range(18)][::-1]
    for part in ("imagesTr", "labelsTr"):
        (place / part).mkdir(parents=True)
    case = make_case(tmp_path / "one", "case", shape=(6, 5, 4), radius=2)
    assert case.label is not None
    for name in names:
        (place / "imagesTr" / f"{name}.nii.gz").write_bytes(case.images[0].read_bytes())
        (place / "labelsTr" / f"{name}.nii.gz").write_bytes(case.label.read_bytes())
    (place / "train.list").write_text("\n".join(names) + "\n")
    for _ in range(2):  # a second run finds its links
        sets.left_atrium(tmp_path, tmp_path / "data")
    dataset = open_dataset(tmp_path / "data")
    assert dataset.splits == [{"train": names[:2], "val": names[2:]}]
    assert dataset.labels == {0: "background", 1: "left atrium"}
    (place / "imagesTr" / f"{names[0]}.nii.gz").unlink()
    with pytest.raises(SystemExit, match=r"C17\.nii\.gz: is missing, though train\.list names it"):
        sets.left_atrium(tmp_path, tmp_path / "data")


def test_the_real_set_has_its_eighty_cases(real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    importlib.import_module("more_datasets").left_atrium(real_data, tmp_path)
    dataset = open_dataset(tmp_path)
    assert len(dataset.cases) == 80
    assert dataset.splits is not None
    assert [len(dataset.splits[0][part]) for part in ("train", "val")] == [64, 16]
    image, label = load_case(dataset.cases[0], dataset)
    assert np.unique(label.array).tolist() == [0, 1]
    assert image.array.shape[1:] == label.array.shape
