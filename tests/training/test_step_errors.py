"""What goes wrong inside a step is one line with the step, the cases and a remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medseg.commands.fit import fit_bundle
from medseg.commands.plan import plan_bundle
from medseg.errors import ConfigError, MedsegError, ResourceError
from medseg.training.module import SegmentationModule
from medseg.training.step_errors import Place, explain_step
from tests.volumes import make_case

PLACE = Place("training step 7", ("a", "b"), (2, 1, 16, 16, 16))


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (MemoryError(), ResourceError, "memory ran out with crops of 16 x 16 x 16 in batches of 2; take a smaller"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), ResourceError, "memory ran out"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), ResourceError, "memory ran out"),
        (ValueError("Expected more than 1 value per channel when training"), ConfigError, "roi_size=[64, 64, 32]"),
        (RuntimeError("Kernel size can't be greater than actual input size"), ConfigError, "take a larger roi_size"),
        (KeyError("label"), MedsegError, "KeyError with crops"),
        (RuntimeError("size of tensor a (5)\nmust match"), MedsegError, "size of tensor a (5) must match; check"),
        (AssertionError(), MedsegError, "AssertionError with crops"),
    ],
)
def test_an_error_of_a_step_names_the_cases_and_what_to_do(error: Exception, kind: type, words: str) -> None:
    told = explain_step(error, PLACE, (32, 32, 16))
    assert type(told) is kind
    assert str(told).startswith("training step 7 (cases 'a', 'b'): ")
    assert words in str(told)
    assert "\n" not in str(told)


def test_a_told_error_stays_as_it_is_and_odd_batches_do_no_harm() -> None:
    error = ConfigError("told")
    assert explain_step(error, PLACE) is error
    assert Place.of("validation", [1, 2]).text == "validation"
    assert Place.of("validation", {"name": ["x"], "box": [1]}).text == "validation (case 'x')"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("steps")
    for index in range(3):
        make_case(folder / "data", f"ball_{index}", radius=4.0, seed=index)
    plan_bundle(folder / "data", folder / "balls", preset="resenc_unet")
    return folder / "balls"


def fit(bundle: Path, budget_s: float | None = None, **changes: object) -> None:
    quick = {
        "max_epochs": 1,
        "steps_per_epoch": 4,
        "batch_size": 2,
        "num_workers": 0,
        "train::trainer::tracking": False,
    }
    fit_bundle(bundle, overrides=quick | changes, budget_s=budget_s, device="cpu")


def test_a_loss_that_is_not_finite_and_a_crop_that_is_too_small_are_one_line(bundle: Path) -> None:
    wild = {"train::module::learning_rate": 1e9, "train::trainer::gradient_clip": None}
    with pytest.raises(
        ConfigError, match=r"training step \d \(cases? 'ball_.*the loss became .*learning_rate \(1e\+09 now"
    ):
        fit(bundle, **wild)
    with pytest.raises(
        ConfigError, match=r"training step 0 \(cases? 'ball_.*crops of 8 x 8 x 8 .* such as roi_size=\["
    ):
        fit(bundle, roi_size=[8, 8, 8], batch_size=1)
    with pytest.raises(ConfigError, match=r"a timed training step \(cases? 'ball_.*crops of 8 x 8 x 8"):
        fit(bundle, budget_s=60.0, roi_size=[8, 8, 8], batch_size=1)


def test_errors_of_the_backward_pass_and_of_validation_are_told_too(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    with monkeypatch.context() as patch:
        patch.setattr(SegmentationModule, "backward", no_memory)
        with pytest.raises(ResourceError, match=r"training step 0 \(cases? 'ball_.*memory ran out"):
            fit(bundle)
    with monkeypatch.context() as patch:
        patch.setattr("medseg.training.module.overlap_counts", no_memory)
        with pytest.raises(ResourceError, match=r"validation \(case 'ball_\d'\): memory ran out with a volume of"):
            fit(bundle)
