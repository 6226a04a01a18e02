"""Synthetic pairs are trained on in their share, and can by no way validate or be references without being asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from medseg.cli.main import main
from medseg.errors import DataError
from medseg.io.datalist import Case
from medseg.training.case_datasets import TrainingDataset, ValidationDataset
from medseg.training.synthetic_cases import Mixture
from medseg.transforms.crops.sampling import SampleKey
from medseg.transforms.preprocessing import Preprocessing
from tests.commands.test_synthesize import make_balls

LABELS = {0: "background", 1: "ball"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Four real cases, and four synthetic pairs, one made of each."""
    folder = tmp_path_factory.mktemp("mixed")
    real, made = make_balls(folder / "real", 4), folder / "made"
    words = ["synthesize", "sample", "warp", "--data", str(real), "--count", "4", "--output", str(made), "--quiet"]
    assert main(words) == 0
    return real, made


def cases_of(folder: Path) -> list[Case]:
    return [
        Case(path.name.split(".")[0], (path,), folder / "labels" / path.name)
        for path in sorted(folder.glob("images/*"))
    ]


def test_pairs_made_of_a_case_that_validates_are_left_out(folders: tuple[Path, Path]) -> None:
    real, made = folders
    mixture = Mixture(str(made), 1.0)
    kept = mixture.cases(cases_of(real)[1:], ["case_0"], LABELS)
    assert [case.name for case in kept] == [f"synthetic_warp_{number:04d}" for number in (2, 3, 4)]
    with pytest.raises(DataError, match="every pair was made from a case that validates"):
        mixture.cases(cases_of(real), [f"case_{number}" for number in range(4)], LABELS)


@pytest.mark.parametrize(("ratio", "share"), [(1.0, 0.5), (3.0, 0.75), (0.25, 0.2)])
def test_the_ratio_is_that_of_synthetic_to_real_crops(folders: tuple[Path, Path], ratio: float, share: float) -> None:
    real, made = folders
    mixture = Mixture(str(made), ratio)
    count = 4 + len(mixture.cases(cases_of(real), [], LABELS))
    drawn = [mixture.draw(SampleKey(0, 0, index), count, 2000) for index in range(2000)]
    assert sum(number >= 4 for number in drawn) / 2000 == pytest.approx(share, abs=0.04)
    assert set(drawn) == set(range(8))


def test_a_validation_never_has_a_synthetic_case_however_it_is_named(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    _, made = folders
    recipe = Preprocessing([1.0, 1.0, 1.0], [{"kind": "zscore"}])
    listed = [{"image": str(case.images[0]), "label": str(case.label)} for case in cases_of(made)]
    moved = tmp_path / "patient_7.nii.gz"  # out of its folder and under another name: the header tells
    moved.write_bytes(cases_of(made)[0].images[0].read_bytes())
    for data in (listed, [{"image": str(moved), "label": str(moved)}]):
        with pytest.raises(DataError, match="is synthetic"):
            _ = ValidationDataset(recipe, LABELS, data=data).cases
        with pytest.raises(DataError, match="is synthetic"):
            _ = TrainingDataset(recipe, LABELS, (8, 8, 8), samples_per_epoch=2, data=data).cases


def test_real_images_cannot_be_passed_off_as_synthetic(folders: tuple[Path, Path]) -> None:
    real, _ = folders
    with pytest.raises(DataError, match=r"has no synthetic\.json"):
        Mixture(str(real)).cases([], [], LABELS)


def test_evaluate_refuses_synthetic_references_unless_told(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    _, made = folders
    words = ["evaluate", "--prediction", str(made / "labels"), "--reference", str(made / "labels"), "--quiet"]
    assert main(words) == 1
    assert "--allow-synthetic" in capsys.readouterr().err
    assert main([*words, "--allow-synthetic"]) == 0
