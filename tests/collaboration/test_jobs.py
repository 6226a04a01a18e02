"""What a command does when a process of its NVFlare job ends: it names the site, and the same command goes on."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil

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


def is_site(process: psutil.Process, name: str) -> bool:
    words = " ".join(process.cmdline())
    return "simulator_worker" in words and f"--client {name}" in words
