"""A site whose certificate another authority has signed does not take part, and is named; real processes, real certificates."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from medseg.collaboration.sites import SITES_VARIABLE, read_failures
from medseg.commands.split import split_job
from tests.collaboration.flare_runs import needs_nvflare, record
from tests.collaboration.test_flare_sites import two

pytestmark = needs_nvflare
JOIN_S = 60

# A job as `medseg split run --poc` starts it, but for the startup kit of one site, which another project has made.
STRANGER = """
import json, shutil, sys
from pathlib import Path
import nvflare.recipe.poc_env as env
from medseg.collaboration.launch import launch

ours = env.prepare_poc_provision

def with_a_stranger(**how):
    other = how["workspace"] + "-other"
    ours(**{**how, "workspace": other})
    found = ours(**how)
    kits = [next(Path(root).glob("*/prod_00/flair/startup")) for root in (other, how["workspace"])]
    shutil.rmtree(kits[1])
    shutil.copytree(kits[0], kits[1])
    return found

env.prepare_poc_provision = with_a_stranger
launch(json.loads(sys.argv[1]))
"""


def test_a_site_with_another_projects_certificate_is_named_and_the_job_ends(tmp_path: Path) -> None:
    bundle = two(tmp_path, steps=2)
    layout, job = split_job(bundle, {}, 0)
    facts = {
        "split": dataclasses.asdict(job), "name": "stranger", "environment": "poc", "workspace": str(tmp_path / "flare"),
        "join_s": JOIN_S,
    }  # fmt: skip
    surroundings = {
        **os.environ, SITES_VARIABLE: str(layout.sites), "NVFLARE_POC_WORKSPACE": str(tmp_path / "poc" / "ours"),
    }  # fmt: skip
    began = time.monotonic()
    words = open(tmp_path / "words.log", "wb")  # noqa: SIM115
    process = subprocess.Popen(
        [sys.executable, "-c", STRANGER, json.dumps(facts)], env=surroundings, stdout=words,
        stderr=words, start_new_session=True,
    )  # fmt: skip
    try:
        code = process.wait(600)
    finally:  # the stranger goes on trying, as `medseg split run` ends what is left of its session too
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        words.close()
    assert code != 0
    causes = read_failures({name: layout.site(name).folder for name in ("flair", "t1c")})
    record("POC with a certificate of another project", {"seconds": round(time.monotonic() - began, 1), "told": causes})
    assert set(causes) == {"flair"}, (tmp_path / "words.log").read_text(encoding="utf-8")[-3000:]
    assert "certificate was not accepted" in causes["flair"]
    assert not layout.site("flair").half.exists()
