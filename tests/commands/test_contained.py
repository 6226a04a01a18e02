"""A stranger's bundle is opened in a child process: without a network, within limits, gone with its parent."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import psutil
import pytest
import torch

from medseg.bundle.load import load_bundle
from medseg.bundle.made_here import is_ours, note_made, stays_ours
from medseg.bundle.opening.listing import Shown
from medseg.commands import contained
from medseg.commands.contained import Limits, needs_child
from medseg.commands.predict import predict_bundle
from medseg.errors import BundleError, ConfigError, ResourceError, UntrustedBundleError
from medseg.layout import Layout
from tests.bundle.shipped import shipped

PROBE = """
import json, mmap, os, resource, socket, subprocess, sys, time
from pathlib import Path

def outcome(call):
    try:
        return repr(call())
    except BaseException as error:
        return type(error).__name__

def dial():
    socket.create_connection(("127.0.0.1", PORT), timeout=5)

def network():
    place = Path(PLACE)
    (place / "began").write_text(str(os.getpid()))
    print("printed by a stranger")
    while HANG:
        time.sleep(0.1)
    code = f"import socket; socket.create_connection(('127.0.0.1', {PORT}), timeout=5)"
    facts = {
        "dial": outcome(dial),
        "look_up": outcome(lambda: socket.getaddrinfo("localhost", 80)),
        "program": subprocess.run([sys.executable, "-I", "-c", code], stderr=subprocess.DEVNULL).returncode,
        "map": outcome(lambda: len(mmap.mmap(-1, 64 << 30))),
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "session": os.getsid(0) == os.getpid(),
        "safe_path": not {"", os.getcwd()} & set(sys.path),
        "bundle": __file__,
    }
    (place / "facts.json").write_text(json.dumps(facts))
    raise RuntimeError("the stranger's\\nown \\x1b[2J words")
"""


@pytest.fixture(autouse=True)
def _contained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MEDSEG_FOREIGN")
    monkeypatch.setenv("MEDSEG_TRUSTED", str(tmp_path / "trusted.json"))


def stranger(place: Path, *, port: int = 0, hang: bool = False) -> Layout:
    """A bundle whose network is built by code of its own, which tells what it could do."""
    layout = Layout(place / "stranger")
    for folder in (layout.configs, layout.models, layout.folder / "scripts"):
        folder.mkdir(parents=True)
    layout.metadata.write_text(json.dumps({"name": "stranger", "network_data_format": {"outputs": {"pred": {}}}}))
    config = {"preprocessing": {}, "inferer": {}, "network_def": {"_target_": "scripts.probe.network"}}
    layout.inference.write_text(json.dumps(config))
    torch.save({"weight": torch.zeros(1)}, layout.weights)
    text = PROBE.replace("PORT", str(port)).replace("PLACE", repr(str(place))).replace("HANG", str(hang))
    (layout.folder / "scripts" / "probe.py").write_text(text)
    return layout


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    path = tmp_path / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros((8, 8, 8), np.float32), np.eye(4)), path)
    return path


def own_networks_are_allowed() -> bool:
    code = "from medseg.bundle.opening.confine import close_network; print(close_network())"
    return not subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_a_strangers_code_has_no_network_and_little_memory(
    tmp_path: Path, scan: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        layout = stranger(tmp_path, port=server.getsockname()[1])
        monkeypatch.setenv("MEDSEG_FOREIGN_MEMORY", "1GB")
        asked: list[Shown] = []
        monkeypatch.chdir(layout.folder)
        with pytest.raises(BundleError) as caught:
            predict_bundle(layout.folder, [scan], tmp_path / "out", trust=asked.append)
        facts = json.loads((tmp_path / "facts.json").read_text())
        closed = own_networks_are_allowed()
        if closed:
            with pytest.raises(TimeoutError):
                server.accept()
    assert "the stranger's own" in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert any("scripts.probe.network" in line for line in asked[0].lines)
    assert facts["dial"] == facts["look_up"] == "PermissionError"
    assert (facts["program"] != 0) == closed
    assert facts["map"] in ("OSError", "MemoryError")
    assert facts["core"] == [0, 0]
    assert facts["session"]
    assert facts["safe_path"]
    assert str(layout.folder) not in facts["bundle"]
    assert not Path(facts["bundle"]).exists()  # its private copy is gone
    assert "printed by a stranger" in capfd.readouterr().err


def test_a_no_ends_the_child(tmp_path: Path, scan: Path) -> None:
    layout = stranger(tmp_path)

    def refuse(shown: Shown) -> None:
        raise UntrustedBundleError(f"{shown.folder}: not trusted")

    with pytest.raises(UntrustedBundleError, match="not trusted"):
        predict_bundle(layout.folder, [scan], tmp_path / "out", trust=refuse)
    assert not (tmp_path / "began").exists()
    assert not psutil.Process().children()


def test_time_ends_the_child(tmp_path: Path, scan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDSEG_FOREIGN_SECONDS", "0.5")
    with pytest.raises(ResourceError, match=r"more than 0\.5 s.*MEDSEG_FOREIGN_SECONDS"):
        predict_bundle(stranger(tmp_path, hang=True).folder, [scan], tmp_path / "out", trust=True)
    assert not psutil.Process().children()


@pytest.mark.slow
def test_signals_reach_the_child(tmp_path: Path, scan: Path) -> None:
    """Three runs whose bundle hangs; each parent gets another signal, and no child is left."""
    runs = {}
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)):
        place = tmp_path / number.name
        layout = stranger(place, hang=True)
        load_bundle(layout.folder, trust=True)
        words = [sys.executable, "-m", "medseg", "predict", str(layout.folder), str(scan), "-o", str(place / "out")]
        process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        runs[number] = (process, place / "began", code)
    for number, (process, began, code) in runs.items():
        wait_until(began.exists)
        wait_until(began.read_text)
        child = psutil.Process(int(began.read_text()))
        process.send_signal(number)
        assert process.wait(30) == code
        assert process.stderr is not None
        if number == signal.SIGINT:
            assert "medseg: interrupted" in process.stderr.read()
        process.stderr.close()
        wait_until(lambda child=child: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def wait_until(true: object, seconds: float = 120.0) -> None:
    assert callable(true)
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    "sent",
    [
        "no json",
        "[1]",
        '{"finished": 3}',
        '{"progress": ["a", {}, 1]}',
        '{"error": [1]}',
        "{}",
        '{"finished": [{"name": "a", "status": "perfect"}, 1, 1]}',
        '{"unknown": 1}',
    ],
)
def test_nonsense_from_the_child_is_the_bundles_fault(
    sent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = f"import sys; sys.stdin.readline(); print({sent!r}, flush=True); sys.stdin.read()"
    monkeypatch.setattr(contained, "START", start)
    with pytest.raises(BundleError, match="no event"):
        contained.run_contained(tmp_path, {}, cases=1, trust=False, progress=lambda *_facts: None, finished=None)


def test_memory_and_an_early_end_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grow = "import json, sys, time; print(json.dumps({'memory': 1 << 26}), flush=True); x = b'x' * (1 << 28); time.sleep(60)"
    monkeypatch.setattr(contained, "START", grow)
    with pytest.raises(ResourceError, match=r"more than 0\.1 GB.*MEDSEG_FOREIGN_MEMORY"):
        contained.run_contained(tmp_path, {}, cases=1, trust=False, progress=None, finished=None)
    monkeypatch.setattr(contained, "START", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    with pytest.raises(BundleError, match=r"ended early \(signal 11\)"):
        contained.run_contained(tmp_path, {}, cases=1, trust=False, progress=None, finished=None)


def test_python_sockets_are_refused_where_the_system_closes_no_network() -> None:
    code = (
        "import socket, medseg.bundle.opening.confine as confine\n"
        "confine._unshare = lambda: False\n"
        "print(confine.close_network())\n"
        "for call in (lambda: socket.create_connection(('127.0.0.1', 9)), lambda: socket.getaddrinfo('localhost', 9),\n"
        "             lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))):\n"
        "    try: call()\n"
        "    except PermissionError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert "allows no network of its own" in lines[0] or "no networks per process" in lines[0]
    assert len(lines) == 4
    assert all("MEDSEG_FOREIGN_NETWORK" in line for line in lines[1:])


def test_files_written_in_the_closed_network_are_the_users_own(tmp_path: Path) -> None:
    code = (
        f"from medseg.bundle.opening.confine import close_network; close_network(); open({str(tmp_path / 'x')!r}, 'w')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (tmp_path / "x").stat().st_uid == os.getuid()


def test_shipped_and_own_bundles_stay_in_this_process(tmp_path: Path) -> None:
    assert not any(needs_child(layout.folder) for layout in shipped())
    layout = stranger(tmp_path)
    assert needs_child(layout.folder)
    note_made(layout.folder)
    assert not needs_child(layout.folder)
    with stays_ours(layout.folder):
        layout.train.write_text("{}")
    assert is_ours(layout.folder)
    layout.train.write_text("{ }")  # by hand, or by a stranger
    assert needs_child(layout.folder)
    with stays_ours(layout.folder):
        layout.train.write_text("{  }")
    assert needs_child(layout.folder)


@pytest.mark.parametrize(
    ("name", "text"), [("SECONDS", "0"), ("SECONDS", "nan"), ("MEMORY", "much"), ("MEMORY", "0GB")]
)
def test_a_limit_that_is_none_is_named(name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"MEDSEG_FOREIGN_{name}", text)
    with pytest.raises(ConfigError, match=f"MEDSEG_FOREIGN_{name} is '{text}'"):
        Limits.of_user()
