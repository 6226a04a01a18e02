"""The demo dataset: one brain in many forms, decided by a seed, in seconds, without importing nilearn."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from medseg.datasets import demo, load_case, open_dataset
from medseg.errors import DataError
from medseg.io.volume import read_header, read_image


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    demo.make_demo_dataset(folder, subjects=2, left_out=1, spacing_mm=6.0)
    return folder


def test_subjects_differ_and_hold_all_tissues(made: Path) -> None:
    dataset = open_dataset(made)
    assert [case.name for case in dataset.cases] == ["subject_1", "subject_2"]
    assert [case.name for case in dataset.test_cases] == ["subject_3"]
    assert list(dataset.labels.values()) == ["background", "CSF", "grey matter", "white matter"]
    assert dataset.channels == {0: "MRI"}
    assert "no accuracy claim" in dataset.reference
    maps = []
    for case in dataset.cases + dataset.test_cases:
        image, label = load_case(case, dataset)
        share = np.bincount(label.array.ravel(), minlength=4) / label.array.size
        assert 0.6 < share[0] < 0.9
        assert share[1] > 0.005
        assert share[2] > share[3] > 0.04
        bright = [image.array[0][label.array == value].mean() for value in range(4)]
        assert bright[0] < bright[1] < bright[2] < bright[3]
        maps.append(label.array)
    assert min(np.mean(maps[0] != maps[1]), np.mean(maps[1] != maps[2])) > 0.02


def test_field_of_view_is_the_template_s(made: Path) -> None:
    ours, template = read_header(made / "images/subject_1.nii.gz"), read_header(demo.template_path())
    assert template.shape == (197, 233, 189)
    centres = [header.affine[:3] @ [*(np.array(header.shape) - 1) / 2, 1] for header in (ours, template)]
    np.testing.assert_allclose(centres[0], centres[1], atol=1e-4)
    assert ours.orientation == template.orientation == "RAS"
    assert ours.spacing == (6.0, 6.0, 6.0)


def test_equal_seeds_give_equal_files_and_others_do_not(made: Path, tmp_path: Path) -> None:
    demo.make_demo_dataset(tmp_path / "same", subjects=2, left_out=1, spacing_mm=6.0)
    name = "images/subject_2.nii.gz"
    assert (made / name).read_bytes() == (tmp_path / "same" / name).read_bytes()
    demo.make_demo_dataset(tmp_path / "other", subjects=2, left_out=0, spacing_mm=6.0, seed=1)
    assert (read_image(made / name).array != read_image(tmp_path / "other" / name).array).mean() > 0.5


def test_a_finished_folder_is_reused_and_a_half_one_completed(made: Path, tmp_path: Path) -> None:
    calls: list[int] = []
    demo.make_demo_dataset(made, subjects=2, left_out=1, spacing_mm=6.0, on_progress=lambda done, _: calls.append(done))
    assert calls == []
    folder = tmp_path / "half"
    demo.make_demo_dataset(folder, subjects=2, left_out=1, spacing_mm=6.0)
    (folder / "dataset.json").unlink()
    (folder / "labels/subject_1.nii.gz").unlink()
    demo.make_demo_dataset(
        folder, subjects=2, left_out=1, spacing_mm=6.0, on_progress=lambda done, _: calls.append(done)
    )
    assert calls == [1, 2, 3]


def test_foreign_folders_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text("{}")
    with pytest.raises(DataError, match="holds another dataset"):
        demo.make_demo_dataset(tmp_path)
    (tmp_path / "dataset.json").unlink()
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match=r"holds 'thesis\.txt', which is not the demo's"):
        demo.make_demo_dataset(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"nilearn is not installed.*pip install 'medseg\[demo\]'"):
        demo.template_path()


def test_nilearn_nibabel_and_torch_are_not_imported(made: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from medseg.datasets.demo import make_demo_dataset\n"
        f"make_demo_dataset({str(tmp_path / 'd')!r}, subjects=1, left_out=0, spacing_mm=8.0)\n"
        "print([name for name in ('nilearn', 'nibabel', 'torch', 'monai') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_smooth_field_passes_through_its_control_points() -> None:
    expected = np.random.default_rng(3).standard_normal((demo.CONTROL_POINTS,) * 3)
    field = demo.smooth_field((9, 13, 17), np.random.default_rng(3))
    np.testing.assert_allclose(field[::2, ::3, ::4], expected, atol=1e-8)
