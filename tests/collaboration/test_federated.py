"""NVFlare's federated averaging of ordinary training against a plain loop; runs in `make test-extras`."""

from __future__ import annotations

import shutil
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from medseg.bundle.load import load_bundle
from medseg.bundle.opening.parser import checked_config
from medseg.collaboration.rounds import LocalFit, Rounds, local_fit
from medseg.collaboration.sites import definition_digest
from medseg.commands.federate import Training, Wanted, export_federation, plan_federation, run_federation
from medseg.config import read_json
from medseg.layout import Layout
from medseg.tracking.determinism import seed_all
from tests.bundle.samples import make_dataset
from tests.collaboration.flare_runs import needs_nvflare, record, simulate

pytestmark = needs_nvflare
ROUNDS = 3
TINY = {
    "max_epochs": 3,
    "steps_per_epoch": 2,
    "batch_size": 1,
    "roi_size": [32, 32, 32],
    "train::trainer::precision": "32-true",
}


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


def plain_loop(fits: dict[str, LocalFit], weights: dict[str, torch.Tensor], mu: float = 0.0) -> dict[str, torch.Tensor]:
    """Each round: every site starts from the average and trains; the results are averaged by their steps.

    With `mu`, half of it times the squared distance from the average is added to the loss: FedProx as its paper writes it.
    """
    for fit in fits.values():
        fit.trainer.callbacks.append(KeepOptimizer())  # type: ignore[attr-defined]
        if mu:
            add_term(fit, mu)
    for _ in range(ROUNDS):
        results, steps = [], []
        for fit in fits.values():
            fit.module.network.load_state_dict(weights)
            fit.module.anchor = {n: p.detach().clone() for n, p in fit.module.network.named_parameters()}  # type: ignore[assignment]
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


def add_term(fit: LocalFit, mu: float) -> None:
    module, ordinary = fit.module, fit.module.training_step

    def with_term(batch: Any, batch_idx: int) -> torch.Tensor:
        distance = sum(((p - module.anchor[n]) ** 2).sum() for n, p in module.network.named_parameters())  # type: ignore[index]
        return ordinary(batch, batch_idx) + mu / 2 * distance

    module.training_step = with_term  # type: ignore[method-assign]


def planned(sources: dict[str, Path], bundle: Path) -> Path:
    plan_federation(sources, bundle, Wanted(preset="resenc_unet", folds=2))
    return bundle


def first_weights(bundle: Path) -> dict[str, torch.Tensor]:
    definition = read_json(Layout(bundle).train)["network_def"]
    seed_all(0)
    network = checked_config({"network_def": definition}, Path("network_def")).get("network_def")
    return {key: value.clone() for key, value in network.state_dict().items()}


def largest(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert set(a) == set(b)
    return max(float((a[key] - b[key]).abs().max()) for key in a)


def wanted_of(copy: Path, sources: dict[str, Path], overrides: dict[str, Any], mu: float = 0.0) -> dict[str, Any]:
    """Weights that the plain loop ends with, in a copy of the bundle."""
    told = Rounds(definition_digest(copy), ROUNDS, overrides)
    fits = {site: local_fit(Layout(copy).site(site).folder, site, told) for site in sources}
    return plain_loop(fits, first_weights(copy), mu)


def compare(sources: dict[str, Path], bundle: Path, name: str, training: Training) -> dict[str, torch.Tensor]:
    """Run with NVFlare and without; returns NVFlare's weights."""
    copy = bundle.with_name("copy")
    shutil.copytree(planned(sources, bundle), copy)
    run_federation(bundle, training)
    found = torch.load(Layout(bundle).weights, weights_only=True)
    mu = training.mu if training.algorithm == "fedprox" else 0.0
    difference = largest(found, wanted_of(copy, sources, dict(training.overrides), mu))
    moved = largest(found, first_weights(bundle))
    facts = {"sites": 2, "rounds": ROUNDS, "largest_difference": difference, "weights_moved": moved}
    record(name, facts)
    assert moved > 1e-4
    assert difference == 0.0 if not mu else difference < 1e-6
    return found


def two_sites(root: Path) -> dict[str, Path]:
    sources = {"small": root / "a", "large": root / "b"}
    make_dataset(sources["small"], 3, (24, 24, 20))
    make_dataset(sources["large"], 9, (24, 24, 20))
    return sources


def test_fedavg_equals_a_plain_loop_of_local_fits_and_so_do_real_processes_and_the_exported_job(tmp_path: Path) -> None:
    sources, bundle, training = two_sites(tmp_path), tmp_path / "whole", Training(ROUNDS, overrides=TINY)
    found = compare(sources, bundle, "fedavg of two made-up sites", training)
    assert load_bundle(bundle).untrained_network().load_state_dict(found)
    job = export_federation(bundle, training, tmp_path / "job")
    assert not [path for path in job.rglob("*.json") if str(tmp_path) in path.read_text(encoding="utf-8")]
    simulate(job, list(sources), Layout(bundle).sites, tmp_path / "simulator")
    exported = torch.load(Layout(bundle).global_weights, weights_only=True)
    record("fedavg, exported job in NVFlare's simulator", {"largest_difference": largest(found, exported)})
    assert largest(found, exported) == 0.0
    Layout(bundle).global_weights.unlink()
    run_federation(bundle, replace(training, poc=True))
    real = torch.load(Layout(bundle).weights, weights_only=True)
    record("fedavg, real processes (POC)", {"largest_difference": largest(found, real)})
    assert largest(found, real) == 0.0


def test_fedavg_on_hippocampus_equals_the_plain_loop(tmp_path: Path, real_data: Path) -> None:
    source = real_data / "hippocampus"
    names = sorted(path.name for path in (source / "labelsTr").glob("*.nii.gz"))[:9]
    sources = {"small": tmp_path / "a", "large": tmp_path / "b"}
    for folder, chosen in zip(sources.values(), (names[:3], names[3:]), strict=True):
        for kind, part in (("images", "imagesTr"), ("labels", "labelsTr")):
            (folder / kind).mkdir(parents=True)
            for name in chosen:
                shutil.copy(source / part / name, folder / kind / name)
    compare(sources, tmp_path / "whole", "fedavg of hippocampus", Training(ROUNDS, overrides=TINY))


def test_fedprox_adds_half_mu_times_the_squared_distance_and_a_failing_site_is_named(tmp_path: Path) -> None:
    sources, bundle, mu = two_sites(tmp_path), tmp_path / "whole", 5.0
    plain = {**TINY, "train::module::optimizer": "sgd", "train::module::learning_rate": 0.02}
    strong = Training(ROUNDS, "fedprox", mu, plain)
    found = compare(sources, bundle, "fedprox of two made-up sites", strong)
    assert read_json(Layout(bundle).run(0).result)["algorithm"] == "fedprox"
    without = planned(sources, tmp_path / "without")
    moved = largest(found, wanted_of(without, sources, plain))
    record("fedprox against fedavg", {"mu": mu, "largest_difference": moved})
    assert moved > 1e-4
    shutil.rmtree(sources["large"] / "labels")
    with pytest.raises(ValueError, match=r"site 'large': .*labels"):
        run_federation(bundle, strong)
