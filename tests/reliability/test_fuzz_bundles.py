"""2 000 mutated bundle files on every run, under an audit hook; and the hook and the fuzzer themselves are tried."""

from __future__ import annotations

import contextlib
import logging
import pickle
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.reliability.fuzz_bundles import SLOWEST_S, Fuzzer, Report

pytestmark = pytest.mark.requirement("R13")


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzzer]:
    logging.disable(logging.WARNING)
    place = tmp_path_factory.mktemp("doors").resolve()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDSEG_TRUSTED", str(place / "trusted.json"))
        patch.setenv("MEDSEG_BUNDLES", str(place / "installed"))
        yield Fuzzer(place)
    logging.disable(logging.NOTSET)


def test_mutated_bundle_files_are_read_or_refused(fuzzer: Fuzzer) -> None:
    report = Report(seed=0)
    for _ in range(2):
        fuzzer.block(report)
    assert report.mutations == 2000
    assert report.findings == []
    assert report.slowest_s <= SLOWEST_S
    assert all(counts.get("refused") and counts.get("read") for counts in report.counts.values()), report.counts


def connect() -> None:
    with socket.socket() as stream:
        stream.connect_ex(("127.0.0.1", 9))


@pytest.mark.parametrize(
    "harm",
    [
        lambda: open("/dev/null", "w").close(),
        connect,
        lambda: subprocess.run(["true"], check=False),
        lambda: pickle.loads(pickle.dumps(pickle.PickleBuffer)),
        lambda: eval("1 + 1"),
        lambda: Path("/nowhere/at/all").mkdir(),
        lambda: __import__("antigravity_of_medseg"),
    ],
    ids=["write", "connect", "start", "unpickle", "run", "make", "import"],
)
def test_the_hook_hears_what_is_forbidden(harm: Callable[[], object], fuzzer: Fuzzer) -> None:
    with fuzzer.watch.watching(fuzzer.place) as broken, contextlib.suppress(OSError, ImportError):
        harm()
    assert broken


def test_a_planted_fault_is_found_with_its_bytes(fuzzer: Fuzzer, monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(path: Path) -> None:
        raise KeyError("planted")

    monkeypatch.setattr("tests.reliability.bundle_targets.read_state_dict", faulty)
    report = Report(seed=1)
    fuzzer.block(report, 50)
    assert any("planted" in finding["what"] and finding["bytes"] for finding in report.findings)
