"""Two processes train what one trains: one start of both for all claims, each training a second long."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.small_fit import losses_of_rows, start, train, weights
from tests.volumes import make_case

# bit for bit: one sample in every part, in whatever process, and a length that does not shape the schedule
EXACT = {"batch_size": 2, "micro_batch_size": 1, "schedule": "constant"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small_balls")
    for number in range(4):
        make_case(folder, f"ball_{number}", shape=(12, 12, 12), radius=3.0 + 0.5 * number, seed=number)
    return folder


@pytest.fixture(scope="module")
def root(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the trainings of two processes lie, one folder each."""
    place = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDSEG_STORE", str(place / "store"))
        patch.setenv("MEDSEG_FOREIGN", "inside")
        (place / "from_one").mkdir()
        train(place / "from_one", data, max_epochs=1, **EXACT)
        jobs: list[dict[str, Any]] = [
            {"root": "ddp"},  # the first one brings the processes together
            {"root": "losses", "losses": True},
            {"root": "in_parts", "micro_batch_size": 1, "checkpointing": True},
            {"root": "float32", "precision": "32-true"},
            {"root": "fsdp2", "strategy": "fsdp2", "validated": 1},
            {"root": "exact", **EXACT},
            {"root": "to_one", "max_epochs": 1, **EXACT},
            {"root": "from_one", "resume": True, **EXACT},
            {"root": "budget", "budget_s": 3.0, "max_epochs": 1000, "steps": 2},
            {"root": "odd_batch", "batch_size": 3, "refused": True},
            {"root": "batch_norm", "norm": "batch", "refused": True},
            {"root": "other_cases", "cases": [4, 3], "by_rank": ["cases"], "refused": True},
        ]
        for job in jobs:
            job["root"], job["data"] = str(place / job["root"]), str(data)
        running = start(jobs)
        try:
            ends = [process.communicate(timeout=400)[1] for process in running]
        finally:
            for process in running:
                process.kill()
        assert [process.returncode for process in running] == [0, 0], ends
        yield place


@pytest.fixture(scope="module")
def one(data: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same trainings by one process."""
    place = tmp_path_factory.mktemp("one")
    for name, settings in {"float64": {}, "float32": {"precision": "32-true"}, "exact": EXACT}.items():
        (place / name).mkdir()
        train(place / name, data, **settings)
    train(root / "to_one", data, resume=True, **EXACT)
    return place


def difference(first: Path, second: Path) -> float:
    mine, other = weights(first), weights(second)
    assert mine.keys() == other.keys()
    return max(float((mine[name].double() - other[name].double()).abs().max()) for name in mine)


@pytest.mark.parametrize("way", ["ddp", "in_parts", "fsdp2"])
def test_two_processes_are_one_with_the_same_batch_after_eight_steps(way: str, one: Path, root: Path) -> None:
    """`in_parts` is 2 processes x 2 parts, with blocks that run again; the weights are those of 4 samples at once."""
    assert json.loads((root / way / "runs" / "fold_0" / "result.json").read_text())["steps"] == 8
    assert weights(root / way)["stem.weight"].dtype == torch.float64
    assert difference(one / "float64", root / way) <= 1e-12


def test_in_float32_they_are_one_within_rounding(one: Path, root: Path) -> None:
    assert difference(one / "float32", root / "float32") <= 1e-5


def test_every_loss_and_its_gradient_are_those_of_the_whole_batch(root: Path) -> None:
    whole = losses_of_rows(0, 1)
    for rank in range(2):
        part = torch.load(root / "losses" / f"{rank}.pt", weights_only=True)
        for name, (loss, grad) in whole.items():
            torch.testing.assert_close(part[name][0], loss, rtol=1e-12, atol=1e-12, msg=name)
            torch.testing.assert_close(part[name][1], grad[rank::2], rtol=1e-10, atol=1e-14, msg=name)


def test_a_training_goes_on_in_another_number_of_processes_bit_for_bit(one: Path, root: Path) -> None:
    for other in (root / "exact", root / "from_one", root / "to_one"):
        assert difference(one / "exact", other) == 0.0, other.name


def test_validation_counts_each_case_once(one: Path, root: Path) -> None:
    """Three cases in two processes: their Dice is the mean of three; one case: the other process has an empty place."""
    alone, shared = (
        json.loads((place / "runs" / "fold_0" / "metrics.json").read_text())[-1]["val_dice"]
        for place in (one / "float64", root / "ddp")
    )
    assert shared == pytest.approx(alone, abs=1e-6)
    assert "val_dice" in json.loads((root / "fsdp2" / "runs" / "fold_0" / "metrics.json").read_text())[-1]


def test_a_budget_is_one_length_for_all(root: Path) -> None:
    length = json.loads((root / "budget" / "runs" / "fold_0" / "budget.json").read_text())
    rows = json.loads((root / "budget" / "runs" / "fold_0" / "metrics.json").read_text())
    assert len(rows) == length["max_epochs"] < 1000
    assert rows[-1]["seconds"] < 10.0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("odd_batch", "batch_size is 3 and 2 processes train together"),
        ("batch_norm", "the network has 2 batch norms (stage.layers.0.norm, ...)"),
        ("other_cases", "process 1 on "),
    ],
)
def test_what_processes_cannot_share_is_refused_by_name_in_each(name: str, said: str, root: Path) -> None:
    for rank in range(2):
        text = (root / name / f"refused_{rank}.txt").read_text()
        assert said in text
    if name == "other_cases":
        assert "differs from process 0" in text
        assert "the list of cases" in text
