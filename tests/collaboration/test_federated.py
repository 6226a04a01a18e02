"""NVFlare's federated averaging of ordinary training against a plain loop; runs in `make test-extras`."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from medseg.bundle.load import load_bundle
from medseg.bundle.opening.parser import checked_config
from medseg.collaboration.rounds import LocalFit, Rounds, local_fit
from medseg.collaboration.sites import definition_digest
from medseg.commands.federate import Training, Wanted, plan_federation, run_federation
from medseg.config import read_json
from medseg.layout import Layout
from medseg.tracking.determinism import seed_all
from tests.bundle.samples import make_dataset

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("nvflare") is None, reason="the package nvflare is not installed"
)
ROUNDS = 3
TINY = {
    "max_epochs": 3,
    "steps_per_epoch": 2,
    "batch_size": 1,
    "roi_size": [32, 32, 32],
    "train::trainer::precision": "32-true",
}
# What was measured is kept where this names a file; `make test-extras` does.
RECORD = os.environ.get("MEDSEG_EXTRAS_RECORD")


class KeepOptimizer(pl.Callback):
    """The states of optimizer and schedule from one round to the next, as NVFlare's client keeps them."""

    def __init__(self) -> None:
        self.states: list[Any] = []

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.states:
            trainer.optimizers[0].load_state_dict(self.states[0])
            trainer.lr_scheduler_configs[0].scheduler.load_state_dict(self.states[1])

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        optimizer, schedule = trainer.optimizers[0], trainer.lr_scheduler_configs[0].scheduler
        self.states = [deepcopy(optimizer.state_dict()), deepcopy(schedule.state_dict())]


def plain_loop(fits: dict[str, LocalFit], weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Each round: every site starts from the average and trains; the results are averaged by their steps."""
    for fit in fits.values():
        fit.trainer.callbacks.append(KeepOptimizer())  # type: ignore[attr-defined]
    for _ in range(ROUNDS):
        results, steps = [], []
        for fit in fits.values():
            fit.module.network.load_state_dict(weights)
            before = fit.trainer.global_step
            fit.fit()
            fit.trainer.fit_loop.max_epochs = int(fit.trainer.max_epochs or 0) + 1
            results.append({name: value.numpy().copy() for name, value in fit.module.network.state_dict().items()})
            steps.append(fit.trainer.global_step - before)
        total = float(sum(steps))
        weights = {
            name: torch.as_tensor(
                sum(result[name] * float(n) for result, n in zip(results, steps, strict=True)) * (1.0 / total)
            )
            for name in weights
        }
        assert steps[0] < steps[1]
    return weights


def record(name: str, facts: dict[str, Any]) -> None:
    if RECORD:
        path = Path(RECORD)
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        path.write_text(json.dumps({**known, name: facts}, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def compare(sources: dict[str, Path], tmp_path: Path, name: str, overrides: dict[str, Any]) -> None:
    bundle, copy = tmp_path / "whole", tmp_path / "copy"
    plan_federation(sources, bundle, Wanted(preset="resenc_unet", folds=2))
    shutil.copytree(bundle, copy)
    run_federation(bundle, Training(ROUNDS, overrides=overrides))
    definition = read_json(Layout(bundle).train)["network_def"]
    seed_all(0)
    network = checked_config({"network_def": definition}, Path("network_def")).get("network_def")
    told = Rounds(definition_digest(copy), ROUNDS, overrides)
    fits = {site: local_fit(Layout(copy).site(site).folder, site, told) for site in sources}
    wanted = plain_loop(fits, {key: value.clone() for key, value in network.state_dict().items()})
    found = torch.load(Layout(bundle).weights, weights_only=True)
    difference = max(float((found[key] - wanted[key]).abs().max()) for key in wanted)
    moved = max(float((found[key] - value).abs().max()) for key, value in network.state_dict().items())
    record(name, {"sites": 2, "rounds": ROUNDS, "largest_difference": difference, "weights_moved": moved})
    assert moved > 1e-4
    assert difference == 0.0
    assert load_bundle(bundle).untrained_network().load_state_dict(found)


def test_fedavg_equals_a_plain_loop_of_local_fits_weighted_by_steps(tmp_path: Path) -> None:
    sources = {"small": tmp_path / "a", "large": tmp_path / "b"}
    make_dataset(sources["small"], 3, (24, 24, 20))
    make_dataset(sources["large"], 9, (24, 24, 20))
    compare(sources, tmp_path, "fedavg of two made-up sites", TINY)


def test_fedavg_on_hippocampus_equals_the_plain_loop(tmp_path: Path, real_data: Path) -> None:
    source = real_data / "hippocampus"
    names = sorted(path.name for path in (source / "labelsTr").glob("*.nii.gz"))[:9]
    sources = {"small": tmp_path / "a", "large": tmp_path / "b"}
    for folder, chosen in zip(sources.values(), (names[:3], names[3:]), strict=True):
        for kind, part in (("images", "imagesTr"), ("labels", "labelsTr")):
            (folder / kind).mkdir(parents=True)
            for name in chosen:
                shutil.copy(source / part / name, folder / kind / name)
    compare(sources, tmp_path, "fedavg of hippocampus", TINY)


def test_fedprox_runs_and_is_recorded_and_a_failing_site_is_named(tmp_path: Path) -> None:
    sources = {"small": tmp_path / "a", "large": tmp_path / "b"}
    for folder, count in zip(sources.values(), (3, 4), strict=True):
        make_dataset(folder, count, (24, 24, 20))
    bundle = tmp_path / "whole"
    plan_federation(sources, bundle, Wanted(preset="resenc_unet", folds=2))
    strong = Training(1, "fedprox", 1000.0, {**TINY, "max_epochs": 1, "steps_per_epoch": 3})
    run_federation(bundle, strong)
    assert read_json(Layout(bundle).run(0).result)["algorithm"] == "fedprox"
    shutil.rmtree(sources["large"] / "labels")
    with pytest.raises(ValueError, match=r"site 'large': .*labels"):
        run_federation(bundle, strong)
