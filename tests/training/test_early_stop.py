from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from medseg.commands.fit import fit_bundle
from medseg.commands.plan import plan_bundle
from medseg.errors import ConfigError
from medseg.planning.plan import Plan
from medseg.training.early_stop import EarlyStop
from tests.volumes import make_case

QUICK = {"max_epochs": 9, "steps_per_epoch": 1, "batch_size": 1, "val_interval": 1, "num_workers": 0}


def validated(stop: EarlyStop, values: list[float]) -> list[bool]:
    trainer = SimpleNamespace(callback_metrics={}, should_stop=False, current_epoch=0)
    decisions = []
    for epoch, value in enumerate(values):
        trainer.current_epoch, trainer.callback_metrics = epoch, {"val_dice": torch.tensor(value)}
        stop.on_validation_end(trainer, None)  # type: ignore[arg-type]
        decisions.append(trainer.should_stop)
    return decisions


def test_it_waits_for_so_many_validations_since_the_best() -> None:
    stop = EarlyStop(2)
    assert validated(stop, [0.5, 0.4, 0.6, 0.6, 0.6005, 0.9]) == [False, False, False, False, True, True]
    assert stop.best_epoch == 5


def test_its_memory_survives_a_checkpoint() -> None:
    first, second = EarlyStop(3), EarlyStop(3)
    validated(first, [0.5, 0.4, 0.3])
    second.load_state_dict(first.state_dict())
    assert validated(second, [0.2]) == [True]


def test_a_run_that_had_decided_to_stop_does_not_train_on_when_resumed() -> None:
    stop, trainer = EarlyStop(1), SimpleNamespace(should_stop=False)
    stop.load_state_dict({"best": 0.9, "best_epoch": 3, "waited": 1})
    stop.on_train_start(trainer, None)  # type: ignore[arg-type]
    assert trainer.should_stop


def test_a_patience_of_none_validations_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"early_stop is 0; expected a number of validations from 1"):
        EarlyStop(0)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    for index in range(2):
        make_case(tmp_path / "data", f"ball_{index}", shape=(12, 12, 12), seed=index)
    plan_bundle(tmp_path / "data", tmp_path / "bundle", preset="resenc_unet")
    return tmp_path / "bundle"


def test_training_stops_early_records_it_and_resumes_exactly(bundle: Path) -> None:
    """A learning rate of next to nothing never improves: best at the first validation, stop two later."""
    assert Plan.read(bundle / "plan.json").optimization["early_stop"] is None
    never = QUICK | {"early_stop": 2, "train::module::learning_rate": 1e-30}
    fit_bundle(bundle, overrides=never)
    run = bundle / "runs" / "fold_0"
    result = json.loads((run / "result.json").read_text())
    assert (result["steps"], result["stopped_early"], result["best_epoch"]) == (3, True, 0)
    # as if it had been killed after the last checkpoint: it must not train on
    (run / "result.json").unlink()
    fit_bundle(bundle, overrides=never, resume=True)
    assert json.loads((run / "result.json").read_text())["steps"] == 3
