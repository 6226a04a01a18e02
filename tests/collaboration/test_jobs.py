"""What a command does when a process of its NVFlare job ends: it names the site, and the same command goes on."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from medseg.collaboration.jobs import told_by_sites
from medseg.commands.split import run_split
from medseg.layout import Layout
from tests.collaboration.flare_runs import needs_nvflare, record
from tests.collaboration.test_flare_sites import halves, largest, two


def test_a_cause_that_names_its_site_is_not_named_twice() -> None:
    assert told_by_sites({"pet": "site 'ct', step 3: gone", "ct": "no memory"}) == (
        "site 'ct', step 3: gone; site 'ct': no memory"
    )


@needs_nvflare
def test_a_site_that_is_killed_in_a_step_is_named_and_the_same_command_ends_bit_for_bit_as_an_undisturbed_one(
    tmp_path: Path,
) -> None:
    bundle, here, timeout_s = two(tmp_path, steps=8), tmp_path / "here", 30
    shutil.copytree(bundle, here)
    words = [sys.executable, "-m", "medseg", "split", "run", str(bundle), "--timeout", str(timeout_s), "--quiet"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    while not (Layout(bundle).site("flair").state / "step_3.pt").is_file():
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    (site,) = [one for one in psutil.Process(process.pid).children(recursive=True) if is_site(one, "flair")]
    site.kill()
    killed = time.monotonic()
    _, error = process.communicate(timeout=300)
    seconds = round(time.monotonic() - killed, 1)
    assert process.returncode == 1
    assert "site 'flair', step" in error.splitlines()[-1]
    assert "goes on from the last whole step" in error
    losses = run_split(bundle)
    log = (Layout(bundle).runs / "nvflare.log").read_text(encoding="utf-8")
    first = next(int(line.split()[2]) for line in log.splitlines() if line.startswith("from step"))
    wanted = run_split(here, here=True)
    difference = largest(halves(bundle), halves(here))
    facts = {"seconds to the message": seconds, "timeout": timeout_s, "resumed at step": first}
    record("a site killed in the simulator, then resumed", {**facts, "largest_difference": difference})
    assert first >= 2
    assert losses == wanted
    assert difference == 0.0


# Python imports a module of this name in every process that finds it: the site answers one question too late.
LATE = """
import os, sys, time
words = " ".join(sys.orig_argv)
if "simulator_worker" in words and "--client flair" in words:
    from medseg.collaboration.image_site import ImageSite
    forward = ImageSite.forward

    def late(self, step, crops):
        answer = forward(self, step, crops)
        with open(os.environ["ASKED"], "a") as file:
            file.write(f"{step}\\n")
        if step == 2 and open(os.environ["ASKED"]).read().split().count("2") == 1:
            time.sleep(22)
        return answer

    ImageSite.forward = late
"""


@needs_nvflare
def test_an_answer_that_comes_too_late_is_asked_for_again_inside_nvflare_and_the_step_is_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, here, asked = two(tmp_path, steps=5), tmp_path / "here", tmp_path / "asked.txt"
    shutil.copytree(bundle, here)
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(LATE, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "hook"), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("ASKED", str(asked))
    losses = run_split(bundle, timeout_s=15.0)
    assert asked.read_text(encoding="utf-8").split() == ["0", "1", "2", "2", "3", "4"]
    assert losses == run_split(here, here=True)
    difference = largest(halves(bundle), halves(here))
    record(
        "an answer that came too late in the simulator", {"timeout": 15, "late by": 7, "largest_difference": difference}
    )
    assert difference == 0.0


@needs_nvflare
def test_ten_random_kills_of_a_site_or_of_the_whole_command_change_no_bit_of_the_halves(tmp_path: Path) -> None:
    bundle, here, kills, draw = two(tmp_path, steps=70), tmp_path / "here", 10, random.Random(0)
    shutil.copytree(bundle, here)
    victims: list[str] = []
    resumed: list[int] = []
    while len(victims) < kills:
        victim = draw.choice(["site", "command"])
        process, first = started(bundle, draw)
        resumed.append(first)
        if victim == "site":
            (one,) = [each for each in psutil.Process(process.pid).children(recursive=True) if is_site(each, "flair")]
            one.kill()
        else:
            processes = psutil.Process(process.pid).children(recursive=True)
            process.kill()
            assert not psutil.wait_procs(processes, timeout=30)[1]
        _, error = process.communicate(timeout=300)
        assert process.returncode == (1 if victim == "site" else -signal.SIGKILL), error
        assert victim == "command" or "site 'flair', step" in error
        victims.append(victim)
    losses = run_split(bundle)
    assert losses == run_split(here, here=True)
    difference = largest(halves(bundle), halves(here))
    facts = {"killed": victims, "steps": len(losses), "started from step": resumed, "largest_difference": difference}
    record("ten random kills in the simulator, then resumed", facts)
    assert set(victims) == {"site", "command"}
    assert resumed == sorted(resumed)
    assert difference == 0.0


def started(bundle: Path, draw: random.Random) -> tuple[subprocess.Popen[str], int]:
    """A training that has made a few steps since it went on, and the step from which; it is somewhere in a step now."""
    log = Layout(bundle).runs / "nvflare.log"
    log.unlink(missing_ok=True)
    words = [sys.executable, "-m", "medseg", "split", "run", str(bundle), "--timeout", "30", "--quiet"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    wanted = draw.randrange(1, 4)
    while True:
        assert process.poll() is None, process.communicate()
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
        if sum(line.startswith("step ") for line in lines) >= wanted:
            break
        time.sleep(0.02)
    time.sleep(draw.random() * 0.5)
    return process, next(int(line.split()[2]) for line in lines if line.startswith("from step"))


def is_site(process: psutil.Process, name: str) -> bool:
    words = " ".join(process.cmdline())
    return "simulator_worker" in words and f"--client {name}" in words
