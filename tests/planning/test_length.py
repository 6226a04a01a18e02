"""A time budget told to `plan` becomes a length within bounds, and says what it means."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medseg.bundle.checks.planned import plan_differences
from medseg.cli.main import main
from medseg.commands import fit, plan
from medseg.commands.plan import plan_bundle
from medseg.errors import ResourceError
from medseg.layout import Layout
from medseg.planning.length import LEAST_EPOCHS, MOST_EPOCHS, PlannedLength, in_words
from medseg.planning.memory import StepCost
from medseg.planning.plan import Plan
from medseg.planning.plan_check import plan_fault
from tests.volumes import make_case

WEEK = 7 * 86_400.0


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three constant images whose label is two voxels."""
    affine, label = np.eye(4), np.zeros((12, 12, 12), dtype=np.uint8)
    label[5, 5, 5:7] = 1
    for number in range(3):
        (tmp_path / "data" / "images").mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / "labels").mkdir(parents=True, exist_ok=True)
        image = nibabel.Nifti1Image(np.full(label.shape, 7.0, dtype=np.float32), affine)
        nibabel.save(image, tmp_path / "data" / "images" / f"c{number}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(label, affine), tmp_path / "data" / "labels" / f"c{number}.nii.gz")
    return tmp_path / "data"


def timed(monkeypatch: pytest.MonkeyPatch, seconds: float | None) -> None:
    def measure(*_: object, **__: object) -> StepCost:
        if seconds is None:
            raise ResourceError("a training step took over 10 s; choose a smaller preset or crop")
        return StepCost(1, seconds)

    monkeypatch.setattr(plan, "measure_step", measure)


@pytest.mark.parametrize("budget_s", [1e-3, 60.0, 2400.0, WEEK, 1e12])
@pytest.mark.parametrize("step_s", [0.0, 1e-3, 0.5, 60.0])
@pytest.mark.parametrize("planned", [1, 50, 250])
def test_every_budget_gives_a_length_within_bounds(budget_s: float, step_s: float, planned: int) -> None:
    length = PlannedLength(budget_s, step_s, batch_size=4, cases=3)
    found = length.epochs(planned)
    assert 1 <= found["max_epochs"] <= MOST_EPOCHS
    assert 1 <= found["val_interval"] <= found["max_epochs"]
    assert 0 < found["max_epochs"] * found["steps_per_epoch"] <= length.steps
    assert length.steps < LEAST_EPOCHS or found["max_epochs"] >= LEAST_EPOCHS


@pytest.mark.parametrize(
    ("budget_s", "step_s", "said"),
    [(60.0, 45.0, ""), (WEEK, 0.5, "look at the validation curve")],
)
def test_three_constant_cases_with_tiny_labels_are_planned_for_a_minute_and_for_a_week(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget_s: float, step_s: float, said: str
) -> None:
    timed(monkeypatch, step_s)
    made = plan_bundle(data, tmp_path / "b", budget_s=budget_s, folds=3, device="cpu")
    assert plan_fault(json.loads(Layout(tmp_path / "b").plan.read_text())) is None
    assert f"{in_words(budget_s)} of --budget hold about" in made.reasons["optimization"]
    assert [note for note in made.warnings if said in note] if said else not made.warnings
    assert json.loads(Layout(tmp_path / "b").train.read_text())["budget_s"] == budget_s


def test_fewer_crops_than_cases_are_warned_of() -> None:
    (told,) = PlannedLength(60.0, 10.0, batch_size=4, cases=100).warnings()
    assert told.startswith("1 minute are 5 steps: fewer crops than training cases")


def test_a_budget_changes_the_length_and_nothing_else(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed(monkeypatch, 0.01)
    settings = [
        plan_bundle(data, tmp_path / name, budget_s=budget, folds=3, device="cpu").optimization
        for name, budget in (("without", None), ("hour", 3600.0))
    ]
    lengths = {"max_epochs", "steps_per_epoch", "val_interval", "budget_s"}
    without, hour = ({key: value for key, value in each.items() if key not in lengths} for each in settings)
    assert without == hour


def test_a_step_that_cannot_be_timed_leaves_the_length_to_fit(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed(monkeypatch, None)
    made = plan_bundle(data, tmp_path / "b", budget_s=60.0, folds=3, device="cpu")
    assert made.optimization["max_epochs"] == 40
    assert "no step could be timed here" in made.reasons["optimization"]


def test_fit_keeps_to_the_planned_budget_unless_told_another_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        make_case(tmp_path / "data", f"ball_{number}", radius=4.0, seed=number)
    timed(monkeypatch, 0.1)
    words = ["plan", "--data", str(tmp_path / "data"), "--output", str(tmp_path / "b"), "--budget", "90s", "--quiet"]
    assert main([*words, "--folds", "3", "--device", "cpu"]) == 0
    given: list[object] = []
    monkeypatch.setattr(fit, "_fit_folds", lambda *parts, **_: given.append(parts[3]["budget_s"]) or {})
    fit.fit_bundle(tmp_path / "b")
    fit.fit_bundle(tmp_path / "b", budget_s=30.0)
    fit.fit_bundle(tmp_path / "b", overrides={"max_epochs": 2})
    assert given == [90.0, 30.0, None]


def test_an_edited_budget_is_taken_over(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, 0.1)
    plan_bundle(data, tmp_path / "b", budget_s=60.0, folds=3, device="cpu")
    layout = Layout(tmp_path / "b")
    made = Plan.read(layout.plan)
    made.optimization["budget_s"] = 120.0
    made.write(layout.plan)
    assert [str(each.place) for each in plan_differences(layout)] == ["budget_s"]
    assert main(["plan", "--apply", str(tmp_path / "b"), "--quiet"]) == 0
    assert json.loads(layout.train.read_text())["budget_s"] == 120.0
