"""Where there is no terminal, every long step of every verb says how far it is."""

from __future__ import annotations

import logging
import time

import pytest

from medseg import heartbeat as progress
from medseg.bars import progress_bar
from medseg.cli import main as command_line
from medseg.cli.main import VERBS, main
from medseg.heartbeat import Step, lines_in_the_log, step


def test_a_step_tells_how_far_it_is_and_how_long_it_will_take() -> None:
    began = time.monotonic() - 60
    assert Step("measuring", 10, "cases", done=4, began=began).line() == "measuring: 4 of 10 cases, about 90 s left"
    assert Step("training", 100, "steps", done=50, first=40, began=began, note="loss 1.2").line() == (
        "training: 50 of 100 steps, about 300 s left, loss 1.2"
    )
    assert Step("export", began=began).line() == "export: 60 s so far"


def test_the_innermost_open_step_is_told_of_and_the_verb_where_there_is_none(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), lines_in_the_log("fit", every=0.05):
        time.sleep(0.12)
        with step("folds", 5, "folds"), progress_bar("measuring", 8, unit="case") as advance:
            advance(2)
            time.sleep(0.12)
        time.sleep(0.12)
    lines = caplog.messages
    assert lines[0].startswith("fit: ")
    assert any(line.startswith("measuring: 2 of 8 cases") for line in lines)
    assert lines[-1].startswith("fit: ")


def test_of_waiting_for_a_person_nothing_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), lines_in_the_log("view", every=0.02), step(""):
        time.sleep(0.1)
    assert caplog.messages == []


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_line_every_twenty_seconds(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verb's own work is replaced by waiting: what is tested is that the line is there whatever the verb does."""
    import importlib

    said: list[str] = []
    monkeypatch.setattr(progress.log, "info", lambda text, line: said.append(line))
    monkeypatch.setattr(command_line, "lines_in_the_log", lambda name: lines_in_the_log(name, every=0.03))
    assert progress.EVERY_S == 20
    module = importlib.import_module(f"medseg.cli.{verb}")
    monkeypatch.setattr(module, "run", lambda arguments: time.sleep(0.1) or 0)
    words = {
        "plan": ["--data", "a", "--output", "b"],
        "pretrain": ["--data", "a", "--output", "b"],
        "adapt": ["x", "--data", "a", "--output", "b"],
        "evaluate": ["--prediction", "a", "--reference", "b"],
        "compare": ["--prediction", "a", "--reference", "b"],
        "stress": ["x", "--data", "a"],
        "probe": [],
        "synthesize": ["sample", "warp", "--data", "a", "--count", "1", "--output", "b"],
        "bundle": ["verify", "x"],
        "federate": ["plan", "--sites", "a", "b", "--output", "c"],
        "split": ["join", "x"],
        "cluster": ["status", "x"],
        "networks": [],
        "demo": [],
        "doctor": [],
    }.get(verb, ["x"])
    assert main([verb, *words]) == 0
    assert said
    assert all(line.startswith(f"{verb}: ") for line in said)
