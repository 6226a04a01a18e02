"""What runs at a site of a federated training: the ordinary Lightning training of its bundle, a share of it each round."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from medseg.bundle.opening.parser import checked_config
from medseg.config import apply_overrides, read_config, read_json
from medseg.datasets import open_dataset
from medseg.errors import ConfigError, MedsegError
from medseg.io.atomic import write_json
from medseg.layout import Layout
from medseg.training.budget_keeper import KeepBudget
from medseg.training.datamodule import SegmentationData
from medseg.training.fit import prepare_run_folder, steps_per_epoch
from medseg.training.module import SegmentationModule

from .shared_facts import folds_of
from .sites import Site, check_definition, note_failure, read_site, site_folder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rounds:
    """What every site of a job is told; JSON-ready.

    Args:
        digest: see `definition_digest`.
        rounds: times that the sites' weights are averaged.
        overrides: "key::path" -> value of train.json.
        fold: of the site's own folds.
    """

    digest: str
    rounds: int
    overrides: Mapping[str, Any]
    fold: int = 0


@dataclass(frozen=True)
class LocalFit:
    """Lightning's three parts of a site's training."""

    trainer: pl.Trainer
    module: SegmentationModule
    data: SegmentationData

    def fit(self) -> None:
        """One round; the next goes on with the crops, the optimizer's step count and the schedule of this one."""
        self.data.first_epoch = self.trainer.current_epoch
        try:
            self.trainer.fit(self.module, datamodule=self.data)
        except Exception as error:
            told = self.data.explain(error) or (None if isinstance(error, MedsegError) else self.module.explain(error))
            if told is None:
                raise
            raise told from error


def local_fit(folder: Path, name: str, job: Rounds) -> LocalFit:
    """The training of a site's bundle as `medseg fit` builds it, with a round's share of its epochs.

    The learning rate's schedule is laid out over all rounds.

    Raises:
        BundleError: another version of the bundle; ConfigError: more rounds than epochs.
    """
    check_definition(folder, job.digest, name)
    layout = Layout(folder)
    config = apply_overrides(read_config([layout.train]), dict(job.overrides))
    epochs = int(config["max_epochs"])
    if job.rounds > epochs:
        raise ConfigError(
            f"--rounds is {job.rounds}, the bundle trains {epochs} epochs in all; add max_epochs={job.rounds}"
        )
    a_round = math.ceil(epochs / job.rounds)
    site = read_site(folder)
    _own_folds(layout, site)
    own = {"bundle_root": str(folder.resolve()), "fold": job.fold, "dataset_dir": site.data_folder}
    # a site with twice the cases makes twice the steps, and counts twice in the average
    steps = max(1, round(int(config["steps_per_epoch"]) * float(site.settings.get("share", 1.0))))
    config = {**config, **own, "max_epochs": a_round, "steps_per_epoch": steps}
    run = layout.run(job.fold)
    prepare_run_folder(run.folder, keep=False)
    write_json(run.config, config)
    reader = checked_config(config, layout.train)
    reader.get("initialize")
    fit = LocalFit(reader.get("train::trainer"), reader.get("train::module"), reader.get("train::data"))
    fit.data.prepare_data()
    fit.data.augment_on(fit.trainer.strategy.root_device)
    for callback in fit.trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, KeepBudget):
            callback.first_total = job.rounds * a_round * steps_per_epoch(fit.trainer, fit.data)
    return fit


def _own_folds(layout: Layout, site: Site) -> None:
    """Make the folds at the site where the plan was made of its fingerprint alone."""
    splits = read_json(layout.splits)
    if splits and not splits[0]["train"]:
        write_json(layout.splits, folds_of(open_dataset(site.data_folder), len(splits)))


def take_part(settings: Mapping[str, Any]) -> None:
    """The whole of a site's script in an NVFlare job.

    Args:
        settings: the fields of `Rounds`.

    Raises:
        MedsegError: also written to `failure.txt` of the site, whatever it is.
    """
    from nvflare.client.api import get_site_name, init, is_running
    from nvflare.client.lightning import patch

    init()
    name = get_site_name()
    folder = site_folder(name)
    try:
        fit = local_fit(folder, name, Rounds(**settings))
        patch(fit.trainer)  # the parameter is the whole module's state; the loss has none
        while is_running():
            fit.fit()
            log.info("%s: %d steps so far", name, fit.trainer.global_step)
    except Exception as error:
        note_failure(folder, error)
        raise
