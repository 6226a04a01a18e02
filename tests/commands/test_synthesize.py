"""From a data set to synthetic pairs by each way, and from a plan over a training to a generator's samples."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from medseg.cli.main import main
from medseg.config import read_json
from medseg.datasets import open_dataset
from medseg.io.synthetic import is_synthetic

SHORT = [
    "train::module::warmup_steps=0",  # at most a fifth of the steps, which an end after one epoch would change
    "steps_per_epoch=3",
    "batch_size=2",
    "num_workers=0",
    "train::trainer::tracking=false",
    "--quiet",
]


def make_balls(folder: Path, count: int, *, value: int = 1, spacing: float = 1.0) -> Path:
    """Balls of random place and radius, 100 brighter than what is around them, with noise of 10."""
    random = np.random.default_rng(0)
    axes = np.stack(np.meshgrid(*[np.arange(16)] * 3, indexing="ij"))
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for number in range(count):
        center, radius = random.uniform(6, 10, (3, 1, 1, 1)), random.uniform(3, 5)
        label = (((axes - center) ** 2).sum(0) < radius**2).astype(np.uint8)
        image = (100 * label + 10 * random.standard_normal(label.shape)).astype(np.float32)
        affine = np.diag([spacing, spacing, spacing, 1])
        nib.save(nib.Nifti1Image(image, affine), folder / "images" / f"case_{number}.nii.gz")
        nib.save(nib.Nifti1Image(label * np.uint8(value), affine), folder / "labels" / f"case_{number}.nii.gz")
    (folder / "dataset.json").write_text(json.dumps({"labels": {"0": "background", str(value): "ball"}}))
    return folder


@pytest.mark.parametrize("method", ["warp", "paint", "gin"])
def test_pairs_made_from_real_ones_are_an_ordinary_data_set_marked_twice(method: str, tmp_path: Path) -> None:
    data, output = make_balls(tmp_path / "data", 2), tmp_path / "made"
    words = ["synthesize", "sample", method, "--data", str(data), "--output", str(output), "--quiet"]
    assert main([*words, "--count", "3"]) == 0
    dataset = open_dataset(output)
    assert len(dataset.cases) == 3
    assert dataset.labels == {0: "background", 1: "ball"}
    manifest = read_json(output / "synthetic.json")
    assert [facts["source"] for facts in manifest["cases"].values()] == ["case_0", "case_1", "case_0"]
    for path in [*output.glob("images/*"), *output.glob("labels/*")]:
        text = bytes(nib.load(path).header["descrip"]).decode()
        assert text.startswith("SYNTHETIC, no patient: medseg")
        assert is_synthetic(path)
    assert not is_synthetic(data / "images" / "case_0.nii.gz")
    again = tmp_path / "again"
    words[words.index(str(output))] = str(again)
    assert main([*words, "--count", "1"]) == 0  # the first of three is the first of one
    name = f"synthetic_{method}_0001.nii.gz"
    first, second = (nib.load(folder / "images" / name).get_fdata() for folder in (output, again))
    assert np.array_equal(first, second)


def test_a_warped_ball_stays_a_ball_and_a_painted_one_forgets_its_brightness(tmp_path: Path) -> None:
    data = make_balls(tmp_path / "data", 1)
    for method in ("warp", "paint"):
        words = [
            "synthesize",
            "sample",
            method,
            "--data",
            str(data),
            "--count",
            "8",
            "--output",
            str(tmp_path / method),
        ]
        assert main([*words, "--quiet"]) == 0
    brighter = {}
    for method in ("warp", "paint"):
        dataset = open_dataset(tmp_path / method)
        differences = []
        for case in dataset.cases:
            image, label = nib.load(case.images[0]).get_fdata(), nib.load(str(case.label)).get_fdata()
            differences.append(image[label == 1].mean() - image[label == 0].mean())
        brighter[method] = np.array(differences)
    assert brighter["warp"].min() > 80
    assert brighter["paint"].min() < 0 < brighter["paint"].max()


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Data, and a tiny generator that was trained for six steps."""
    folder = tmp_path_factory.mktemp("generator")
    data, bundle = make_balls(folder / "data", 6), folder / "gen"
    plan = ["synthesize", "plan", "--data", str(data), "--output", str(bundle), "--size", "tiny", "--folds", "2"]
    assert main([*plan, "--quiet"]) == 0
    assert main(["fit", str(bundle), *SHORT, "max_epochs=2"]) == 0
    return data, bundle


def test_a_generator_is_planned_trained_and_sampled(generator: tuple[Path, Path], tmp_path: Path) -> None:
    data, bundle = generator
    result = read_json(bundle / "runs" / "fold_0" / "result.json")
    assert 0 < result["val_loss"] < 10
    assert (bundle / "runs" / "fold_0" / "samples.png").read_bytes().startswith(b"\x89PNG")
    words = ["synthesize", "sample", str(bundle), "--data", str(data), "--steps", "4", "--device", "cpu", "--quiet"]
    for count, name in ((2, "two"), (1, "one")):
        assert main([*words, "--count", str(count), "--output", str(tmp_path / name)]) == 0
    made = nib.load(tmp_path / "two" / "images" / "synthetic_diffit_0001.nii.gz")
    assert made.shape == (16, 16, 16)
    assert np.isfinite(made.get_fdata()).all()
    alone = nib.load(tmp_path / "one" / "images" / "synthetic_diffit_0001.nii.gz")
    assert np.array_equal(made.get_fdata(), alone.get_fdata())
    manifest = read_json(tmp_path / "two" / "synthetic.json")
    assert (manifest["generator"], manifest["steps"]) == ("gen", 4)


@pytest.mark.slow
def test_a_generator_that_was_interrupted_goes_on_bit_for_bit(generator: tuple[Path, Path], tmp_path: Path) -> None:
    data, bundle = generator
    other = tmp_path / "gen"
    plan = ["synthesize", "plan", "--data", str(data), "--output", str(other), "--size", "tiny", "--folds", "2"]
    assert main([*plan, "--quiet"]) == 0
    assert main(["fit", str(other), *SHORT, "max_epochs=1"]) == 0
    assert main(["fit", str(other), *SHORT, "max_epochs=2", "--resume"]) == 0
    whole, parts = (torch.load(one / "models" / "model.pt", weights_only=True) for one in (bundle, other))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def refused(capsys: pytest.CaptureFixture[str], words: list[str], code: int = 1) -> str:
    capsys.readouterr()
    assert main(words) == code
    return capsys.readouterr().err


def test_what_cannot_be_made_is_refused_with_a_way_out(
    generator: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, bundle = generator
    output = ["--count", "1", "--output", str(tmp_path / "out")]
    one = make_balls(tmp_path / "one", 1)
    other = make_balls(tmp_path / "other", 2, value=3)
    sample = ["synthesize", "sample"]
    assert "less than 1" in refused(capsys, [*sample, "warp", "--data", str(data), *output, "--count", "0"], 2)
    assert "nearest real neighbour" in refused(
        capsys, ["synthesize", "plan", "--data", str(one), "--output", str(tmp_path / "g")]
    )
    assert "never saw" in refused(capsys, [*sample, str(bundle), "--data", str(other), *output])
    assert "2 steps or more" in refused(capsys, [*sample, str(bundle), "--data", str(data), *output, "--steps", "1"])
    made = tmp_path / "made"
    assert main([*sample, "warp", "--data", str(data), "--count", "2", "--output", str(made), "--quiet"]) == 0
    assert "not empty" in refused(capsys, [*sample, "warp", "--data", str(data), "--count", "1", "--output", str(made)])
    assert "are synthetic" in refused(capsys, [*sample, "warp", "--data", str(made), *output])
    assert "no labelled case 'nobody'" in refused(
        capsys, [*sample, "gin", "--data", str(data), *output, "--cases", "nobody"]
    )


def test_a_label_map_on_another_spacing_is_resampled_and_that_is_said(
    generator: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = make_balls(tmp_path / "coarse", 1, spacing=2.0)
    words = ["synthesize", "sample", str(generator[1]), "--data", str(data), "--count", "1", "--steps", "2"]
    with caplog.at_level("INFO"):
        assert main([*words, "--output", str(tmp_path / "out")]) == 0
    assert "resampled from 2 x 2 x 2 to the generator's 1 x 1 x 1 mm" in caplog.text
