"""Whole commands under kills, shortages, deaths, full disks and load: a short round on every run, the full one marked slow.

The rounds run in one process of their own (`tests/reliability/scenario.py`): the imports are paid once, and the forks do not
inherit pytest's threads.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

SHORT = (
    "kill_fit=2",
    "kill_steps=1",
    "kill_prepare=1",
    "kill_predict=1",
    "endings:predict+pack=0",
    "endings_slurm=1",
    "mixed=5",
    "repeat=2",
    "scope",
    "load=40",
    "fit_inputs=5",
)
FULL = (
    "endings=2",
    "endings_slurm=12",
    "kill_fit=20",
    "kill_prepare=20",
    "kill_predict=20",
    "mixed=50",
    "repeat=10",
    "load=1000",
    "fit_inputs=25",
)


def play(*names: str) -> dict[str, dict[str, Any]]:
    command = [sys.executable, "-m", "tests.reliability.scenario", *names]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if not result.stdout.strip():
        raise RuntimeError(result.stderr[-2000:])
    return dict(json.loads(result.stdout))


@pytest.fixture(scope="module")
def short() -> dict[str, dict[str, Any]]:
    return play(*SHORT)


@pytest.mark.requirement("R5")
def test_a_killed_training_resumes_to_bitwise_equal_weights(short: dict[str, dict[str, Any]]) -> None:
    assert short["kill_fit"]["faults"] == []
    assert short["kill_fit"]["counts"]["resumed to bitwise equal weights"] == 2


@pytest.mark.requirement("R5")
def test_a_training_killed_inside_an_epoch_goes_on_bit_for_bit(short: dict[str, dict[str, Any]]) -> None:
    assert short["kill_steps"]["faults"] == []
    assert short["kill_steps"]["counts"]["steps resumed to bitwise equal weights"] == 1


@pytest.mark.requirement("R6")
@pytest.mark.parametrize("name", ["kill_prepare", "kill_predict"])
def test_killed_commands_leave_whole_files_and_go_on(short: dict[str, dict[str, Any]], name: str) -> None:
    assert short[name]["faults"] == []
    assert any("killed" in what for what in short[name]["counts"])


@pytest.mark.requirement("R4")
def test_bad_cases_are_named_and_the_others_equal_single_runs(short: dict[str, dict[str, Any]]) -> None:
    assert short["mixed"]["faults"] == []
    assert short["mixed"]["counts"]["equal bit for bit to a single run"] == 4


@pytest.mark.requirement("R12")
def test_repeats_are_identical(short: dict[str, dict[str, Any]]) -> None:
    assert short["repeat"]["faults"] == []
    assert short["repeat"]["counts"]["repeats"] == 2


@pytest.mark.requirement("Scope")
def test_cases_out_of_scope_are_warned_of_by_name(short: dict[str, dict[str, Any]]) -> None:
    assert short["scope"]["faults"] == []
    assert short["scope"]["counts"]["warned of by name"] == 3  # intensities of an MR have no units


@pytest.mark.requirement("R15")
def test_many_cases_keep_nothing(short: dict[str, dict[str, Any]]) -> None:
    assert short["load"]["faults"] == []
    assert short["load"]["counts"]["cases"] == 40


@pytest.mark.requirement("R1", "R8")
def test_fit_refuses_broken_datasets_and_rebuilds_damaged_caches(short: dict[str, dict[str, Any]]) -> None:
    assert short["fit_inputs"]["faults"] == []
    assert short["fit_inputs"]["counts"]["refused"] == 5


@pytest.mark.requirement("R5")
@pytest.mark.slow
def test_a_training_killed_at_any_step_or_between_folds_goes_on_bit_for_bit() -> None:
    result = play("kill_steps=4")["kill_steps"]
    assert result["faults"] == []
    assert result["counts"]["steps resumed to bitwise equal weights"] == 4
    assert result["counts"]["folds killed"] == 2
    assert result["counts"]["folds with bitwise equal weights"] == 4


@pytest.mark.requirement("R8")
@pytest.mark.slow
def test_folds_at_once_and_failing_tracking_stores_end_no_training() -> None:
    result = play("surroundings=2")["surroundings"]
    assert result["faults"] == []
    assert result["counts"]["folds started at once"] == 6
    assert result["counts"]["faults of the tracking store"] == 4


@pytest.mark.requirement("R10")
@pytest.mark.slow
def test_deaths_in_the_middle_of_a_case_are_named_within_ten_seconds() -> None:
    result = play("workers")["workers"]
    assert result["faults"] == []
    assert result["counts"]["faults planted"] == 11


@pytest.mark.requirement("R9")
@pytest.mark.slow
def test_a_shortage_of_memory_steps_down_and_finishes() -> None:
    result = play("memory")["memory"]
    assert result["faults"] == []
    assert result["counts"]["finished after stepping down"] == 10


@pytest.mark.requirement("R7")
@pytest.mark.slow
def test_full_disks_and_impossible_places_are_named() -> None:
    result = play("disk")["disk"]
    assert result["faults"] == []
    assert result["counts"]["situations"] >= 12


@pytest.mark.requirement("R4", "R5", "R6", "R12", "R15")
@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_the_full_round(name: str) -> None:
    (result,) = play(name).values()
    assert result["faults"] == []


def test_a_signal_at_any_moment_loses_nothing(short: dict[str, dict[str, Any]]) -> None:
    found = short["endings:predict+pack"]
    assert found["faults"] == []
    assert found["counts"]["undisturbed result in the end"] == found["counts"]["signals"] == 4


def test_an_early_signal_of_slurm_saves_and_requeues(short: dict[str, dict[str, Any]]) -> None:
    assert short["endings_slurm"]["faults"] == []
    assert short["endings_slurm"]["counts"]["jobs requeued"] == 1
