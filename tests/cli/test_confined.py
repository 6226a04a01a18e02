"""`cv`, `bundle verify` and `bundle export` of a stranger's bundle run in a child process with limits, as `predict` does."""

from __future__ import annotations

import json
import logging
import os
import socket
from pathlib import Path

import psutil
import pytest

from medseg.bundle.load import load_bundle
from medseg.bundle.made_here import note_made
from medseg.cli import confined
from medseg.cli.main import main
from medseg.layout import Layout
from tests.bundle.samples import make_bundle

NETWORK = """
import json, os, socket
from pathlib import Path
from medseg.components import build_network

def outcome(call):
    try:
        return repr(call())
    except BaseException as error:
        return type(error).__name__

def network(**arguments):
    facts = {"dial": outcome(lambda: socket.create_connection(("127.0.0.1", PORT), timeout=5)), "pid": os.getpid()}
    Path(PLACE).write_text(json.dumps(facts))
    print("printed by \\x1b[2J a stranger")
    return build_network(**arguments)
"""


@pytest.fixture
def strange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """A bundle that this user did not make, and that needs no trust."""
    monkeypatch.delenv("MEDSEG_FOREIGN")
    monkeypatch.setenv("MEDSEG_TRUSTED", str(tmp_path / "trusted.json"))
    layout = make_bundle(tmp_path / "tiny_mr_unet", tmp_path / "data")
    layout.inference.write_text(layout.inference.read_text() + "\n")  # by another hand
    return layout


def with_own_code(layout: Layout, place: Path, port: int) -> None:
    (layout.folder / "scripts").mkdir()
    text = NETWORK.replace("PORT", str(port)).replace("PLACE", repr(str(place)))
    (layout.folder / "scripts" / "own.py").write_text(text)
    config = json.loads(layout.inference.read_text())
    config["network_def"]["_target_"] = "scripts.own.network"
    layout.inference.write_text(json.dumps(config))


@pytest.mark.slow
def test_a_strangers_network_is_exported_in_a_child(
    strange: Layout, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with_own_code(strange, tmp_path / "facts.json", server.getsockname()[1])
        load_bundle(strange.folder, trust=True)
        words = ["bundle", "export", str(strange.folder), "--to", "torchscript", "-o", str(tmp_path / "x.ts"), "--json"]
        assert main(words) == 0
    said = capfd.readouterr()  # what the bundle prints does not get between the command's own lines
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["dial"] == "PermissionError"
    assert facts["pid"] != os.getpid()
    assert json.loads(said.out)["equal_labels"] >= 0.999
    assert "printed by \\u001b[2J a stranger" in said.err
    assert (tmp_path / "x.ts").is_file()
    assert not psutil.Process().children()


def test_the_question_of_trust_is_the_parents(
    strange: Layout, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with_own_code(strange, tmp_path / "facts.json", 9)
    assert main(["cv", str(strange.folder), "--trust", "--json"]) == 1
    said = capfd.readouterr()
    assert "--trust asks on a terminal, and this is none" in said.err
    assert not (tmp_path / "facts.json").exists()


def test_what_the_child_prints_and_its_code_are_the_commands(
    strange: Layout, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    strange.license.unlink()
    strange.metadata.write_text("{")  # ends the checks early
    words = ["bundle", "verify", str(strange.folder), "--json"]
    code, told = main(words), capfd.readouterr().out
    monkeypatch.setenv("MEDSEG_FOREIGN", "inside")
    assert code == main(words) == 1
    here = json.loads(capfd.readouterr().out)
    assert [check["faults"] for check in json.loads(told)["checks"]] == [check["faults"] for check in here["checks"]]


def test_a_limit_ends_the_command(
    strange: Layout, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MEDSEG_FOREIGN_SECONDS", "0.2")
    assert main(["bundle", "verify", str(strange.folder)]) == 1
    assert "MEDSEG_FOREIGN_SECONDS sets another limit" in capfd.readouterr().err


def test_own_bundles_and_other_commands_stay_here(strange: Layout, caplog: pytest.LogCaptureFixture) -> None:
    from medseg.cli.main import parse

    def confines(*words: str) -> bool:
        return confined.stranger_of(parse(list(words), words[0])) is not None

    folder = str(strange.folder)
    with caplog.at_level(logging.INFO):
        assert confines("cv", folder)
        assert confines("cv", "hippocampus_mr_mambavision", folder)
        assert confines("bundle", "verify", folder)
        assert not confines("bundle", "pack", folder)
        assert not confines("cv", "no_such_bundle")
        note_made(strange.folder)
        assert not confines("cv", folder)
