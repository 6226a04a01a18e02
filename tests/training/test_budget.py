"""A time budget becomes a length that fits into it, however short it is, and the weights kept are always validated."""

from __future__ import annotations

import json
import shutil
import time
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from medseg.commands.fit import fit_bundle
from medseg.commands.plan import plan_bundle
from medseg.errors import BundleError
from medseg.networks.presets import PRESETS, Preset
from medseg.networks.recipe import Level, NetworkSpec
from medseg.training.budget import Length, choose_length
from medseg.training.budget_keeper import KeepBudget, missed
from medseg.training.module import SegmentationModule
from medseg.training.optimization import schedule_factor
from tests.volumes import make_case

FREE = {"batch_size": 2, "num_workers": 0, "train::trainer::tracking": False}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    for index in range(4):
        make_case(tmp_path / "data", f"ball_{index}", radius=4.0 + 0.5 * index, seed=index)
    plan_bundle(tmp_path / "data", tmp_path / "balls", preset="resenc_unet")
    return tmp_path / "balls"


def read(bundle: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((bundle / "runs" / "fold_0" / name).read_text()))


@pytest.mark.parametrize("left", [-3.0, 0.5, 7.0, 40.0, 1000.0])
@pytest.mark.parametrize("cases", [0, 1, 20])
def test_every_length_fits_or_is_the_smallest(left: float, cases: int) -> None:
    length = choose_length(1000.0, left, step_s=0.5, steps=50, case_s=[2.0] * cases, interval=10)
    assert length.steps_per_epoch is not None
    assert length.validation_cases is not None
    steps = length.max_epochs * length.steps_per_epoch
    validations = -(-length.max_epochs // (length.val_interval or 10))
    needed = steps * 0.5 + validations * 2.0 * length.validation_cases
    assert needed <= left or (steps == 1 and length.validation_cases <= 1)
    assert length.steps_per_epoch <= 50
    assert length.validation_cases == cases or length.validation_s <= 0.3 * left or length.validation_cases == 1


def test_a_budget_below_one_epoch_shortens_it(bundle: Path) -> None:
    metrics = fit_bundle(bundle, overrides={**FREE, "steps_per_epoch": 100_000, "val_interval": 10}, budget_s=3.0)[0]
    record = read(bundle, "budget.json")
    assert 1 <= record["steps_per_epoch"] < 100_000
    assert read(bundle, "result.json")["steps"] == record["max_epochs"] * record["steps_per_epoch"]
    manifest = read(bundle, "manifest.json")
    assert (manifest["max_epochs"], manifest["steps_per_epoch"]) == (record["max_epochs"], record["steps_per_epoch"])
    assert "val_dice" in metrics


def test_the_last_epoch_is_validated_whatever_the_interval(bundle: Path) -> None:
    short = {**FREE, "max_epochs": 3, "steps_per_epoch": 1, "val_interval": 2}
    assert "val_dice" in fit_bundle(bundle, overrides=short)[0]
    rows = json.loads((bundle / "runs" / "fold_0" / "metrics.json").read_text())
    assert ["val_dice" in row for row in rows] == [False, True, True]


def test_resuming_keeps_the_recorded_length(bundle: Path) -> None:
    short = {**FREE, "max_epochs": 2, "steps_per_epoch": 2}
    fit_bundle(bundle, overrides=short)
    (bundle / "runs" / "fold_0" / "result.json").unlink()
    record = bundle / "runs" / "fold_0" / "budget.json"
    record.write_text(
        json.dumps({"budget_s": 9.0, "step_s": 1.0, "validation_s": 1.0, "max_epochs": 3, "steps_per_epoch": 1})
    )
    fit_bundle(bundle, overrides={**short, "max_epochs": 40}, resume=True)  # no --budget: the note is what counts
    assert read(bundle, "manifest.json")["max_epochs"] == 3
    assert read(bundle, "result.json")["steps"] == 5
    (bundle / "runs" / "fold_0" / "result.json").unlink()
    record.write_text("3 epochs")
    with pytest.raises(BundleError, match=r"budget\.json: cannot be read"):
        fit_bundle(bundle, overrides=short, resume=True)


def test_a_short_training_still_reaches_the_full_learning_rate() -> None:
    factor = schedule_factor("poly", total_steps=20, warmup_steps=50)
    assert max(factor(step) for step in range(20)) > 0.99
    assert schedule_factor("poly", total_steps=1000, warmup_steps=50)(49) == 50 / 51


def test_a_training_that_turns_slow_is_shortened_and_its_rate_goes_on_smoothly(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The steps are timed as free and then take a tenth of a second each: the length follows, the budget is kept."""
    monkeypatch.setattr("medseg.training.budget._time_steps", lambda *_: 0.01)
    plain = SegmentationModule.training_step

    def slow(self: SegmentationModule, *words: Any) -> Any:
        time.sleep(0.1)
        return plain(self, *words)

    monkeypatch.setattr(SegmentationModule, "training_step", slow)
    began = time.monotonic()
    fit_bundle(bundle, overrides={**FREE, "batch_size": 1, "steps_per_epoch": 4, "val_interval": 1000}, budget_s=12.0)
    assert time.monotonic() - began < 20.0  # it was planned as ten times as long
    record, result = read(bundle, "budget.json"), read(bundle, "result.json")
    assert result["steps"] == 4 * record["max_epochs"]
    assert "so epochs: " in (bundle / "runs" / "fold_0" / "log.txt").read_text()


def test_a_stretched_schedule_has_no_jump_and_reaches_its_end() -> None:
    keeper = KeepBudget(Path("unused"))
    assert keeper.total_steps(100) == keeper.total_steps(50) == 100
    assert [keeper.stretched(step) for step in (0, 40, 99)] == [0, 40, 99]
    keeper.changes = [[40, 70], [60, 200]]
    assert keeper.stretched(40) == 40.0
    assert keeper.stretched(60) == pytest.approx(40 + 60 * 20 / 30)
    assert keeper.stretched(200) == pytest.approx(100.0)
    steps = [keeper.stretched(step) for step in range(201)]
    assert steps == sorted(steps)


def test_a_training_far_from_its_budget_says_why() -> None:
    length = choose_length(50.0, 45.0, step_s=0.5, steps=10, case_s=[1.0], interval=5)
    ended = types.SimpleNamespace(should_stop=False, global_step=80)
    assert missed(length, 52.0, ended) is None  # type: ignore[arg-type]
    assert "took 64 s of a budget of 50 s: a step takes 0.5 s" in str(missed(length, 64.0, ended))  # type: ignore[arg-type]


class Killed(BaseException):
    """Stands for SIGKILL at a step."""


def test_a_stretched_training_goes_on_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between and after two changes of the length; only what the clock says is fixed."""
    levels = (Level(4, ("residual",), stride=1), Level(8, ("residual",), stride=2))
    tiny = Preset(lambda size, dims: NetworkSpec(levels, drop_path=0.2), (), "of the tests", "none")
    monkeypatch.setitem(PRESETS, "tiny", tiny)
    for index in range(2):
        make_case(tmp_path / "data", f"ball_{index}", shape=(16, 16, 16), radius=4.0, seed=index)
    bundle = tmp_path / "balls"
    plan_bundle(tmp_path / "data", bundle, preset="tiny", folds=2)
    length = Length(60.0, 0.01, 0.01, max_epochs=4, steps_per_epoch=2, validation_cases=1, val_interval=2)
    monkeypatch.setattr("medseg.training.budget.choose_length", lambda *_, **__: length)
    monkeypatch.setattr("medseg.training.budget_keeper.DRIFT", 0.0)
    monkeypatch.setattr(KeepBudget, "_affordable", lambda _, done, **__: {1: 8}.get(done, 5))
    plain = SegmentationModule.training_step
    rates: dict[int, float] = {}
    deadly: list[int] = []

    def step(self: SegmentationModule, *words: Any) -> Any:
        if self.global_step in deadly:
            raise Killed
        rates[self.global_step] = self.trainer.optimizers[0].param_groups[0]["lr"]
        return plain(self, *words)

    monkeypatch.setattr(SegmentationModule, "training_step", step)

    def trained(place: Path, *, resume: bool = False) -> tuple[dict[str, torch.Tensor], list[Any], dict[int, float]]:
        fit_bundle(place, overrides=FREE, budget_s=60.0, resume=resume)
        state = torch.load(place / "models" / "fold_0" / "model.pt", weights_only=True)
        rows = json.loads((place / "runs" / "fold_0" / "metrics.json").read_text())
        return state, [{**row, "seconds": 0} for row in rows], dict(rates)

    shutil.copytree(bundle, tmp_path / "whole")
    state, rows, expected = trained(tmp_path / "whole")
    assert len(rows) == 5
    assert read(tmp_path / "whole", "result.json")["steps"] == 10
    assert list(expected) == list(range(10))
    rates.clear()
    shutil.copytree(bundle, tmp_path / "killed")
    for number in (3, 7):
        deadly[:] = [number]
        with pytest.raises(Killed):
            fit_bundle(tmp_path / "killed", overrides=FREE, budget_s=60.0, resume=number > 3)
    deadly.clear()
    again, rows_again, rates_again = trained(tmp_path / "killed", resume=True)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())
    assert rows_again == rows
    assert rates_again == expected
