"""Low resolution first: the same labels inside the box, nothing outside, fewer windows; a clear word where there is none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from medseg.bundle.low_resolution import attach_low_resolution
from medseg.bundle.write import write_bundle
from medseg.cli.main import main
from medseg.commands.predict import predict_bundle
from medseg.errors import BundleError, ConfigError
from medseg.inference import Execution, LabelSettings, Predictor
from medseg.inference.locate import LocatingPredictor, box_round
from medseg.inference.settings import PredictOptions
from medseg.inference.windows.slab import plan_windows
from medseg.io import Header, Volume, read_label, write_image
from medseg.layout import Layout
from medseg.transforms.preprocessing import Preprocessing
from tests.bundle.samples import make_plan

AFFINE = np.array([[0, 0, -1.1, 9], [-0.9, 0, 0, 5], [0, 1.0, 0, 1], [0, 0, 0, 1]])
SHAPE = (44, 60, 52)
SMALL = {"_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 3, "channels": [4, 8], "strides": [2]}


class Bright(torch.nn.Module):
    """Class 1 where the image is bright, by a margin that no border effect reaches."""

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.full_like(windows, 0.5), windows], dim=1)


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv3d(1, 6, 3, padding=1), torch.nn.GELU(), torch.nn.Conv3d(6, 4, 3, padding=1)
    ).eval()


def scan(start: tuple[int, ...] = (8, 20, 14), extent: int = 12) -> Volume:
    """Noise, and a bright block that the coarse network finds."""
    array = 0.05 * gaussian_filter(np.random.default_rng(0).normal(size=SHAPE), 1.0)
    array[tuple(slice(s, s + extent) for s in start)] += 1.0
    return Volume(array[None].astype(np.float32), AFFINE, Header.of_array(array.shape, AFFINE))


def full_predictor(network: torch.nn.Module, spacing=(1.0, 1.2, 0.9), **options) -> Predictor:
    execution = {"engine": "eager"} | {key: options.pop(key) for key in list(options) if hasattr(Execution, key)}
    recipe = Preprocessing(spacing, [{"kind": "none"}])
    return Predictor(network, recipe, LabelSettings((12, 10, 14), **options), Execution(**execution))


def locating(full: Predictor, **options) -> LocatingPredictor:
    recipe = Preprocessing((3.0, 3.0, 3.0), [{"kind": "none"}])
    coarse = Predictor(Bright(), recipe, LabelSettings((8, 8, 8)), Execution(engine="eager"))
    return LocatingPredictor(coarse, full, **options)


@pytest.mark.parametrize("accumulation", ["float32", "nnunet"])
@pytest.mark.parametrize("place", [(8, 20, 14), (0, 0, 0), (32, 48, 40)], ids=str)
@pytest.mark.parametrize("spacing", [None, (1.0, 1.2, 0.9)], ids=str)
def test_inside_the_box_labels_are_those_of_the_whole_run(network, place, spacing, accumulation: str) -> None:
    volume = scan(place)
    whole = full_predictor(network, spacing, accumulation=accumulation).predict(volume)
    windows = []
    made = locating(full_predictor(network, spacing, accumulation=accumulation), margin_mm=4.0)
    label = made.segment(made.prepare(volume), lambda done, total: windows.append(total))
    assert made.box is not None
    inside = tuple(slice(*side) for side in made.box)
    for (low, high), first in zip(made.box, place, strict=True):
        assert low <= first
        assert high >= first + 12
    assert len(np.unique(whole[inside])) > 1
    np.testing.assert_array_equal(label[inside], whole[inside])
    label[inside] = 0
    assert not label.any()
    prepared = made.full.prepare(volume)
    assert windows[0] < plan_windows(prepared.image.shape[1:], (12, 10, 14), (0.5,) * 3).count / 2


def test_slab_size_does_not_matter_in_a_box(network) -> None:
    labels = []
    for planes in (None, 15, 31, 1000):
        made = locating(full_predictor(network, slab_planes=planes))
        labels.append(made.segment(made.prepare(scan())))
    for other in labels[1:]:
        np.testing.assert_array_equal(labels[0], other)


def test_probabilities_outside_the_box_are_background(network) -> None:
    made = locating(full_predictor(network, keep_probabilities=True), margin_mm=2.0)
    label = made.segment(made.prepare(scan()))
    assert made.probabilities is not None
    assert made.probabilities.shape == (4, *label.shape)
    outside = np.ones(label.shape, dtype=bool)
    outside[tuple(slice(*side) for side in made.box)] = False
    assert (made.probabilities[0][outside] == 1).all()
    assert (made.probabilities[1:, outside] == 0).all()


def test_nothing_found_computes_the_whole_volume_and_says_so(network) -> None:
    volume = scan()
    volume.array[:] = np.minimum(volume.array, 0.3)
    made = locating(full_predictor(network))
    np.testing.assert_array_equal(made.segment(made.prepare(volume)), full_predictor(network).predict(volume))
    assert "whole volume" in made.steps[0]
    assert made.describe()["fast"]["box"] is None
    assert made.describe()["stepped_down"] == made.steps


def test_only_the_labels_to_find_make_the_box(network) -> None:
    made = locating(full_predictor(network), find=[5])
    made.segment(made.prepare(scan()))
    assert made.box is None


def test_margins_are_in_millimetres_and_stay_inside() -> None:
    found = np.zeros((20, 20, 20), dtype=bool)
    found[5, 10:12, 19] = True
    assert box_round(found, [2.0, 0.4, 3.0]) == ((3, 8), (9, 13), (16, 20))
    assert box_round(~found[:0], [1, 1, 1]) is None
    with pytest.raises(ConfigError, match="margin_mm"):
        LocatingPredictor(None, None, margin_mm=-1.0)  # type: ignore[arg-type]


def bundle_of(folder: Path, network: dict, **changes) -> Layout:
    """A bundle whose network is given as a definition, with weights."""
    from medseg.bundle.load import load_bundle
    from medseg.bundle.weights import write_state_dict

    plan = make_plan(folder, ["a"], spacing=[1.0, 1.2, 0.9], normalization=[{"kind": "none"}], **changes)
    layout = write_bundle(folder, plan)
    config = json.loads(layout.inference.read_text())
    config["network_def"] = network
    layout.inference.write_text(json.dumps(config))
    torch.manual_seed(0)
    write_state_dict(layout.weights, load_bundle(folder).untrained_network().state_dict())
    return layout


def test_predict_fast_with_a_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = bundle_of(tmp_path / "full", SMALL, roi_size=[16, 16, 16])
    coarse = bundle_of(tmp_path / "coarse", SMALL, roi_size=[8, 8, 8])
    volume = scan()
    write_image(tmp_path / "in" / "a.nii.gz", volume.array[0], Header.of_array(SHAPE, AFFINE))
    command = ["predict", str(bundle.folder), str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--engine", "eager"]
    assert main([*command, "--fast"]) == 1
    assert "no low-resolution network" in capsys.readouterr().err
    attach_low_resolution(bundle.folder, coarse.folder, margin_mm=3.0, find=[1, 2])
    assert main([*command, "--fast", "--quiet"]) == 0
    record = json.loads((tmp_path / "out" / "a.json").read_text())
    assert record["settings"]["fast"]["margin_mm"] == 3.0
    whole = predict_bundle(bundle.folder, tmp_path / "in", tmp_path / "whole", options=PredictOptions(engine="eager"))
    assert not whole.failed
    box = record["settings"]["fast"]["box"]
    inside = tuple(slice(*side) for side in box) if box else (slice(None),) * 3
    one, two = (read_label(tmp_path / name / "a.nii.gz").array for name in ("out", "whole"))
    np.testing.assert_array_equal(one[inside], two[inside])
    assert PredictOptions(fast=True).request() != PredictOptions().request()


def test_broken_keys_are_named(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path / "full", SMALL)
    write_image(tmp_path / "a.nii.gz", scan().array[0], Header.of_array(SHAPE, AFFINE))
    config = json.loads(bundle.inference.read_text())

    def run(**facts) -> None:
        bundle.inference.write_text(json.dumps({**config, "low_resolution": facts}))
        predict_bundle(bundle.folder, tmp_path / "a.nii.gz", tmp_path / "out", options=PredictOptions(fast=True))

    with pytest.raises(BundleError, match="has no preprocessing_def, roi_size, checkpoint"):
        run(network_def=SMALL)
    whole = {"network_def": SMALL, "preprocessing_def": config["preprocessing_def"], "roi_size": [8, 8, 8]}
    with pytest.raises(BundleError, match="outside the bundle"):
        run(**whole, checkpoint="../elsewhere.pt")
    with pytest.raises(BundleError, match="is missing"):
        run(**whole, checkpoint="models/none.pt")


def test_short_memory_is_a_line_and_in_the_record(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """The smallest slab, then 16 bits: one line for each thing given up, and the same sentences in the record."""
    bundle = bundle_of(tmp_path / "full", SMALL, roi_size=[16, 16, 16])
    write_image(tmp_path / "a.nii.gz", scan().array[0], Header.of_array(SHAPE, AFFINE))
    command = [
        "predict",
        str(bundle.folder),
        str(tmp_path / "a.nii.gz"),
        "-o",
        str(tmp_path / "out"),
        "--engine",
        "eager",
    ]
    assert main([*command, "--max-memory", "400KB"]) == 0
    lines = [record.getMessage() for record in caplog.records if "memory is short" in record.getMessage()]
    assert len(lines) == len(set(lines)) == 2
    assert "identical labels" in lines[0]
    assert "16 bits" in lines[1]
    settings = json.loads((tmp_path / "out" / "a.json").read_text())["settings"]
    assert settings["stepped_down"] == lines
    assert settings["engines"] == [{"name": "eager", "precision": "fp32", "reason": "asked for", "refused": {}}]
    assert main([*command, "--max-memory", "5KB"]) == 1
    assert "are needed for the logits" in capfd.readouterr().err
