"""A signal ends a command with 130 or 143 and one line that says how to go on; the series of signals is a scenario."""

from __future__ import annotations

import os
import pty
import select
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from medseg.cli.endings import continuing_words, goes_on_by_itself, last_line
from medseg.cli.main import VERBS, main
from tests.reliability.scenarios.base import listens

UNTRACKED = "train::trainer::tracking=false"


def test_the_words_that_go_on_are_the_verbs_own() -> None:
    assert continuing_words("fit", ["fit", "b", "a::b=1 2"]) == ["fit", "b", "a::b=1 2", "--resume"]
    assert continuing_words("fit", ["fit", "b", "--resume"]) == ["fit", "b", "--resume"]
    assert continuing_words("predict", ["predict", "b", "x.nii"]) == ["predict", "b", "x.nii", "--continue"]
    assert continuing_words("demo", ["demo", "--force"]) == ["demo"]
    assert continuing_words("cv", ["cv", "b"]) == ["cv", "b"]


@pytest.mark.parametrize(
    ("fails", "words"), [(False, "job 77 is requeued"), (True, "could not be requeued (no such job)")]
)
def test_an_early_signal_under_slurm_puts_the_job_back(
    fails: bool, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "scontrol"
    script.write_text(
        f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n' + ("echo no such job >&2; exit 1\n" if fails else "")
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    for name, value in {"SLURM_JOB_ID": "77", "SLURM_RESTART_COUNT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    assert words in last_line(signal.SIGUSR1, "fit", ["fit", "b"])
    assert (tmp_path / "asked").read_text() == "requeue 77\n"
    assert last_line(signal.SIGTERM, "fit", ["fit", "b"]).startswith("terminated (SIGTERM); go on with: ")
    assert goes_on_by_itself("fit")
    assert not goes_on_by_itself("evaluate")


SPOKEN = {
    "plan": ["plan", "--data", "data set", "--output", "b"],
    "fit": ["fit", "b", "--fold", "all", "a::b=1 2"],
    "pretrain": ["pretrain", "--data", "d", "--output", "b"],
    "adapt": ["adapt", "a", "--data", "d", "--output", "b"],
    "cv": ["cv", "b"],
    "predict": ["predict", "b", "scans", "-o", "out"],
    "evaluate": ["evaluate", "--prediction", "a", "--reference", "b"],
    "compare": ["compare", "--prediction", "a", "--prediction", "b", "--reference", "c"],
    "stress": ["stress", "b", "--data", "d"],
    "probe": ["probe", "identity"],
    "synthesize": ["synthesize", "sample", "warp", "--data", "d", "--count", "2", "--output", "o"],
    "cluster": ["cluster", "status", "labels"],
    "view": ["view", "scan.nii.gz", "--no-browser"],
    "federate": ["federate", "run", "b", "--rounds", "2"],
    "split": ["split", "run", "b"],
    "verify": ["bundle", "verify", "b"],
    "export": ["bundle", "export", "b", "--to", "onnx"],
    "pack": ["bundle", "pack", "b"],
    "install": ["bundle", "install", "b.zip"],
    "import": ["bundle", "import", "f", "--from", "nnunet", "-o", "b"],
    "register": ["bundle", "register", "b"],
    "networks": ["networks"],
    "demo": ["demo", "--output", "here", "--force"],
    "doctor": ["doctor"],
}


# the command as it stands, but that its verb takes its time: these have nothing to work on and would end by themselves
HELD = "import sys, time, medseg.cli.main as m; m._run = lambda *_: time.sleep(60); sys.exit(m.main())"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_every_verb_ends_with_its_code_and_the_words_that_go_on(number: signal.Signals, tmp_path: Path) -> None:
    """Each is a process of its own that gets the signal as soon as it listens."""
    assert {words[0] for words in SPOKEN.values()} == set(VERBS)
    code, said = {signal.SIGINT: (130, "interrupted"), signal.SIGTERM: (143, "terminated")}[number]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": tmp_path}
    started = {verb: subprocess.Popen([sys.executable, "-c", HELD, *words], **pipes) for verb, words in SPOKEN.items()}
    for verb, process in started.items():
        while not listens(process.pid) and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
        again = SPOKEN[verb] + {"fit": ["--resume"], "pretrain": ["--resume"], "predict": ["--continue"]}.get(verb, [])
        words = shlex.join([sys.executable, "-m", "medseg", *(word for word in again if word != "--force")])
        assert err.decode().splitlines() == [f"medseg: {said} ({number.name}); go on with: {words}"]
        assert (process.returncode, out) == (code, b"")
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_on_a_terminal_ends_with_130_and_one_line(tmp_path: Path) -> None:
    from tests.reliability.scenarios.base import make_data

    data = make_data(tmp_path / "data", 2)
    assert (
        main(
            [
                "plan",
                "--data",
                str(data),
                "--output",
                str(tmp_path / "b"),
                "--folds",
                "2",
                "--preset",
                "resenc_unet",
                "--quiet",
            ]
        )
        == 0
    )
    words = [
        "fit",
        str(tmp_path / "b"),
        "max_epochs=90",
        "steps_per_epoch=2",
        "num_workers=0",
        "train::trainer::tracking=false",
    ]
    screen, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "medseg", *words], stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
        preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(terminal)
    checkpoint = tmp_path / "b" / "runs" / "fold_0" / "last.ckpt"
    deadline = time.monotonic() + 120
    shown = b""
    pressed = False
    while time.monotonic() < deadline:
        if checkpoint.exists() and not pressed:
            os.write(screen, b"\x03")
            pressed = True
        if not select.select([screen], [], [], 0.1)[0]:
            continue
        try:
            piece = os.read(screen, 65536)
        except OSError:
            break
        if not piece:
            break
        shown += piece
    assert process.wait(60) == 130
    lines = [line for line in shown.decode().splitlines() if "go on with: " in line]
    assert len(lines) == 1, shown.decode()[-2000:]
    again = shlex.split(lines[0].split("go on with: ")[1])
    assert again[:3] == [sys.executable, "-m", "medseg"]
    assert again[3:] == [*words, "--resume"]
    assert "Traceback" not in shown.decode()
