"""NVFlare's recipes and where they run: the simulator, real local processes with certificates (POC), or a job to hand on."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.errors import BundleError, ConfigError, ResourceError

from .opening import SplitJob
from .rounds import Rounds
from .sites import SITES_VARIABLE, forget_failures, read_failures

ALGORITHMS = ("fedavg", "fedprox")
LAUNCHER = "medseg.collaboration.launch"  # whose `__main__` takes the facts, and our process's number, as one JSON word
SCRIPT = '''"""One site of a federated medseg training; made by `medseg federate`."""
import json
from medseg.collaboration.rounds import take_part

take_part(json.loads({settings!r}))
'''


def need_nvflare() -> None:
    """Refuse to go on without the extra. Raises ConfigError."""
    if importlib.util.find_spec("nvflare") is None:
        raise ConfigError("nvflare is not installed; it comes with the extra: pip install 'medseg[federated]'")


@dataclass(frozen=True)
class Average:
    """A federated training.

    Args:
        name: of the job.
        definition, seed: see `GlobalWeights`.
        sites: names.
        told: what the sites are told.
        algorithm: `fedavg`, or `fedprox` with the strength `mu`.
    """

    name: str
    definition: Mapping[str, Any]
    seed: int
    sites: Sequence[str]
    told: Rounds
    algorithm: str = "fedavg"
    mu: float = 0.01


def average_recipe(job: Average) -> Any:
    """NVFlare's FedAvg or FedProx recipe; the script of the sites is written into the working folder.

    NVFlare puts a script's path into the job as it is given, so that only a bare name is found at another site.
    """
    from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
    from nvflare.app_opt.pt.recipes.fedprox import FedProxRecipe

    from .persistor import GlobalWeights

    script = Path("medseg_rounds").with_suffix(".py")
    script.write_text(SCRIPT.format(settings=json.dumps(dataclasses.asdict(job.told))), encoding="utf-8")
    settings: dict[str, Any] = {
        "name": job.name,
        "min_clients": len(job.sites),
        "num_rounds": job.told.rounds,
        "train_script": str(script),
        "model_persistor": GlobalWeights(dict(job.definition), job.seed),
        "key_metric": "val_dice",
    }
    if job.algorithm == "fedprox":
        return installed_only(FedProxRecipe(**settings, fedprox_mu=job.mu))
    return installed_only(FedAvgRecipe(**settings))


def installed_only(recipe: Any) -> Any:
    """Keep NVFlare from copying half of medseg into the job: every site runs the medseg that was installed there."""
    recipe._job.set_app_packages(["medseg"])
    return recipe


def split_recipe(name: str, job: SplitJob) -> Any:
    """NVFlare's recipe of a split job."""
    from nvflare.collab import CollabRecipe

    from .flare_sites import SplitClient, SplitServer

    job.check()
    facts = json.loads(json.dumps(dataclasses.asdict(job)))
    recipe = CollabRecipe(
        job_name=name, server=SplitServer(facts), client=SplitClient(facts), min_clients=len(job.image_sites),
        sync_task_timeout=max(60, int(job.timeout_s)),
    )  # fmt: skip
    return installed_only(recipe)


def environment(kind: str, sites: Sequence[str], workspace: Path, join_s: float | None = None) -> Any:
    """`simulator` or `poc`, where each site has `join_s` seconds to join."""
    from nvflare.recipe.sim_env import SimEnv

    if kind == "poc":
        from .poc import JoinedPoc

        return JoinedPoc(sites) if join_s is None else JoinedPoc(sites, join_s)
    return SimEnv(clients=list(sites), workspace_root=str(workspace))


def export(make: Callable[[], Any], output: Path) -> Path:
    """Write the job of the recipe that `make` returns, for provisioned sites; returns its folder.

    Raises:
        BundleError: the folder is not empty.
    """
    if output.exists() and any(output.iterdir()):
        raise BundleError(f"{output} is not empty; choose a new folder with --output")
    output.mkdir(parents=True, exist_ok=True)
    target = str(output.resolve())
    with tempfile.TemporaryDirectory() as scripts, contextlib.chdir(scripts):
        make().export(target)
    return output


def run_apart(facts: Mapping[str, Any], folders: Mapping[str, Path], log: Path) -> None:
    """Run a job in a process of its own, its words in a log file.

    Args:
        facts: what `launch` takes, JSON-ready.
        folders: site -> its folder, where a cause of failure may lie afterwards.
        log: the file.

    Raises:
        ResourceError: it failed; the site and its cause are named where known.
    """
    forget_failures(folders)
    log.parent.mkdir(parents=True, exist_ok=True)
    root = next(iter(folders.values())).parent
    surroundings = {**os.environ, SITES_VARIABLE: str(root.resolve()), "PYTHONUNBUFFERED": "1"}
    with tempfile.TemporaryDirectory(prefix="medseg-poc-") as poc, open(log, "wb") as words:
        surroundings.setdefault("NVFLARE_POC_WORKSPACE", poc)
        process = subprocess.Popen(
            [sys.executable, "-m", LAUNCHER, json.dumps({**facts, "parent": os.getpid()})],
            stdin=subprocess.DEVNULL, stdout=words, stderr=words, env=surroundings, start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait()
        finally:
            _end(process)
    failures = read_failures(folders)
    if failures:
        raise ResourceError(told_by_sites(failures))
    if code != 0:
        raise ResourceError(f"the job ended with exit code {code}; NVFlare's words are in {log}")


def told_by_sites(causes: Mapping[str, str]) -> str:
    """One line of what the sites left; a cause that names a site already, as the label site's does, is kept as it is."""
    return "; ".join(
        cause if cause.startswith("site ") else f"site {name!r}: {cause}" for name, cause in causes.items()
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """End what is left of the process and its children, which share its session."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
    if hasattr(os, "killpg"):
        import signal

        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
