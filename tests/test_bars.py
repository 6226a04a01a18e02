"""Bars stand on a terminal and in a notebook, and nowhere else."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from medseg import bars
from medseg.evaluation import evaluate_folders
from tests.volumes import make_case

CELL = """
import sys, time
from medseg.bars import in_notebook, progress_bar, notebook_bar
print("notebook", in_notebook(), "terminal", sys.stderr.isatty())
with progress_bar("measuring", 4, unit="case") as advance:
    advance(4)
with notebook_bar("window") as show:
    show("first", 2, 2)
    show("second", 3, 3)
"""
# what a front end does: start a kernel, run a cell, read what the kernel publishes
FRONT_END = """
import json, sys
from jupyter_client.manager import start_new_kernel
manager, client = start_new_kernel(kernel_name="python3", startup_timeout=60)
said = {"stdout": "", "stderr": "", "error": ""}
def take(message):
    content = message["content"]
    if message["msg_type"] == "stream":
        said[content["name"]] += content["text"]
    elif message["msg_type"] == "error":
        said["error"] += content["evalue"]
client.execute_interactive(sys.argv[1], output_hook=take, timeout=60)
client.stop_channels()
manager.shutdown_kernel(now=True)
print(json.dumps(said))
"""


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked of IPython, answered as a kernel's shell answers it."""
    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))


def test_a_real_kernel_shows_a_bar_on_its_page(tmp_path: Path) -> None:
    for package in ("ipykernel", "jupyter_client"):
        pytest.importorskip(package)
    done = subprocess.run([sys.executable, "-c", FRONT_END, CELL], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["error"] == ""
    assert said["stdout"] == "notebook True terminal False\n"
    for line in ("measuring: 100%", "4/4", "second: 100%", "3/3"):
        assert line in said["stderr"]


@pytest.mark.usefixtures("kernel")
def test_the_doors_show_a_bar_in_a_notebook(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(2):
        make_case(tmp_path / "data", f"ball_{number}", radius=3.0, seed=number)
    labels = tmp_path / "data" / "labels"
    evaluate_folders(labels, labels)
    shown = capsys.readouterr().err
    assert "scoring: 100%" in shown
    assert "2/2" in shown


def test_nothing_is_drawn_in_a_log_and_with_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not bars.in_notebook()
    assert bars.open_bar("measuring", 3, unit="case") is None
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", terminal)
    with bars.no_bars(), bars.progress_bar("measuring", 3, unit="case") as advance:
        advance(3)
    assert terminal.getvalue() == ""
    with bars.progress_bar("measuring", 3, unit="case") as advance:
        advance(3)
    assert "measuring: 100%" in terminal.getvalue()


@pytest.mark.usefixtures("kernel")
def test_a_bar_on_a_page_stands_without_ipywidgets(capsys: pytest.CaptureFixture[str]) -> None:
    bar = bars.open_bar("a\x1b[31mb", 1, unit="case")
    bar.update(1)
    bar.close()
    assert "\x1b[31m" not in capsys.readouterr().err
