"""`medseg fit`: read a bundle's train.json, override, check, save beside the run, and run it as MONAI would."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack

from medseg.bundle.card import update_figures
from medseg.bundle.catalogue import find_bundle
from medseg.bundle.configs.metadata import read_metadata
from medseg.bundle.load import Trust, open_trusted
from medseg.bundle.low_resolution import attach_low_resolution
from medseg.bundle.made_here import refuse_planned_code, stays_ours
from medseg.bundle.opening.own_packages import KEY
from medseg.bundle.opening.parser import SafeConfig, checked_config
from medseg.bundle.opening.trusted import TrustedConfig
from medseg.config import apply_overrides, read_config, read_json
from medseg.devices import choose_device
from medseg.errors import BundleError, ConfigError
from medseg.io.atomic import write_json
from medseg.io.locks import alone_in
from medseg.layout import Layout
from medseg.planning.folds import number_of_folds
from medseg.planning.plan import Plan
from medseg.ranks import is_helper
from medseg.selection.averaging import average_finished, chosen_over_several, predicting_folds, trained_with
from medseg.tracking.run_record import read_run_id, write_run_id

from .adapt_facts import adapted_start, refuse_pretraining_cases
from .fit_built import build_first, run_trusted, told_as_raised, try_weights
from .fit_changes import is_as_asked, tell_changes
from .fit_finished import is_finished, learnt_from_other_data, send_leftovers
from .fit_record import keep_definition, refuse_mixture, refuse_other_plan
from .fit_tracking import tracking_at, users_address, without_addresses
from .fit_two_stages import SHARE_OF_BUDGET, common_overrides, low_resolution_bundle
from .fit_values import check_values
from .own_words import OwnWords, code_for_prediction, tell_other_code

log = logging.getLogger(__name__)


def resolve_config(
    bundle: Path,
    overrides: Mapping[str, Any] | None = None,
    *,
    fold: int = 0,
    files: Sequence[Path] = (),
    shown: Path | None = None,
    **settings: object,
) -> dict[str, Any]:
    """train.json with further files, overrides and the run's own settings applied, every key checked.

    Args:
        bundle: the bundle's folder.
        overrides: "key::path" -> value.
        fold: which fold.
        files: JSON files stacked on train.json, later ones win.
        shown: where a trusted bundle's own files are read, in place of its folder.
        settings: top-level keys of train.json, such as resume or budget_s.

    Raises:
        ConfigError: an unknown key, or a fold that does not exist.
        BundleError: no train.json.
    """
    layout = Layout(shown or bundle)
    if not layout.train.is_file():
        raise BundleError(f"{bundle} has no configs/train.json: it can predict, but not be trained")
    config = apply_overrides(read_config([layout.train, *files]), dict(overrides or {}))
    typed = users_address(read_config([layout.train]), config, overrides or {})
    config = without_addresses(config, quiet=typed is not None)
    own = {"bundle_root": str(bundle.resolve()), "fold": fold, **settings}
    return config | own


class Words(TypedDict, total=False):
    """How a training begins and how long it lasts; `medseg.fit` takes them by name.

    Args:
        resume: continue where the run stopped.
        budget_s: seconds for each fold, by default those of `plan --budget` unless `max_epochs` is given; a low-resolution
            network takes a quarter of one.
        init_from: another bundle (or a state dict, also one of published weights) whose weights are the start.
        partial: beginnings of names (`head`, `decoder`) of what may stay as made where those weights do not fit.
    """

    resume: bool
    budget_s: float | None
    init_from: str | Path | None
    partial: Sequence[str]


def fit_bundle(
    bundle: str | Path,
    *,
    fold: int | str = 0,
    overrides: Mapping[str, Any] | None = None,
    files: Sequence[Path] = (),
    device: str = "auto",
    trust: Trust = False,
    **words: Unpack[Words],
) -> dict[int, dict[str, float]]:
    """Train a bundle; the low-resolution network first, where the plan has one.

    Args:
        bundle: folder or name.
        fold: a fold's number, or `all`; finished folds are skipped when resuming.
        overrides: "key::path" -> value, checked against train.json.
        files: JSON files stacked on train.json.
        device: see `medseg.devices.choose_device`.
        trust: let the bundle's files name any Python object and run any expression; see `load_bundle`.
        words: `resume`, `budget_s`, `init_from` and `partial`, see `Words`.

    Returns:
        fold -> last metrics.

    Raises:
        UntrustedBundleError: train.json wants to run code that is not on the allow-list.
        ConfigError, BundleError, DataError: before anything is trained, see the functions called.

    An override of `network_def` or `preprocessing_def` is written into the bundle's files once its weights are there, so that
    predict builds what was trained.
    """
    folder = find_bundle(bundle)
    own = OwnWords.of(overrides, files)
    overrides, resume, init_from = own.overrides, words.get("resume", False), words.get("init_from")
    trusted = _opened(folder, trust)
    refuse_other_plan(folder)
    folds = _folds(folder, fold)
    choose_device(device)
    pretrained = _weights_of(init_from) if init_from is not None else adapted_start(folder)
    for number in folds:
        refuse_pretraining_cases(folder, number)
    planned = read_config([Layout(folder).train])
    stacked = apply_overrides(read_config([Layout(folder).train, *files]), dict(overrides or {}))
    budget_s = words.get("budget_s")
    another_length = "max_epochs" in (overrides or {}) or stacked.get("max_epochs") != planned.get("max_epochs")
    if budget_s is None and not another_length:
        budget_s = stacked.get("budget_s")  # of `plan --budget`
    with tracking_at(users_address(planned, stacked, overrides or {})):
        coarse = low_resolution_bundle(folder)
        if coarse is not None:
            share = None if budget_s is None else budget_s * SHARE_OF_BUDGET
            common = common_overrides(overrides) | ({} if own.project is None else {KEY: str(own.project.source)})
            fit_bundle(
                coarse, fold=folds[0], overrides=common, resume=resume, budget_s=share, device=device, trust=trust
            )
            if not is_helper():
                with alone_in(Layout(folder).files_lock), stays_ours(folder):
                    attach_low_resolution(folder, coarse)
            budget_s = None if budget_s is None or share is None else budget_s - share
        partial = list(words.get("partial", ()))
        settings = {"resume": resume, "budget_s": budget_s, "pretrained": pretrained, "partial": partial}
        return _fit_folds(folder, folds, own, settings, nested=fold == "all", device=device, trusted=trusted)


def _opened(folder: Path, trust: Trust) -> TrustedConfig | None:
    """train.json as it was shown to who trusts it; None for one that needs no trust.

    Raises:
        UntrustedBundleError: it wants to run code, and trust was not given.
    """
    layout = Layout(folder)
    read_metadata(folder)  # MONAI's workflow reads it too, and would show a traceback
    opened = open_trusted(folder, layout.train, trust)  # MONAI's workflow below would run whatever it says
    trusted = opened if isinstance(opened, TrustedConfig) else None
    if trust is False and trusted is None and layout.plan.is_file():
        refuse_planned_code(Plan.read(layout.plan), layout)
    return trusted


def _folds(folder: Path, fold: int | str) -> list[int]:
    """The folds that were asked for. Raises ConfigError for one that is not there."""
    count = number_of_folds(folder)
    if fold != "all" and not 0 <= int(fold) < count:
        raise ConfigError(f"fold {fold} was asked for; {folder} has the folds 0 to {count - 1}")
    return list(range(count)) if fold == "all" else [int(fold)]


def _fit_folds(
    folder: Path,
    folds: Sequence[int],
    own: OwnWords,
    run_settings: Mapping[str, Any],
    *,
    nested: bool,
    device: str,
    trusted: TrustedConfig | None = None,
) -> dict[int, dict[str, float]]:
    """Train one fold after the other; nested ones below one MLflow run."""
    resume = bool(run_settings["resume"])
    keys = {key: value for key, value in run_settings.items() if key != "partial"}
    results: dict[int, dict[str, float]] = {}
    parent = None
    for number in folds:
        shown = None if trusted is None else trusted.root
        config = own.prepared(resolve_config(folder, own.overrides, fold=number, files=own.files, shown=shown, **keys))
        finished = resume and is_finished(folder, number) and not learnt_from_other_data(folder, number)
        if finished and is_as_asked(Layout(folder).run(number).folder, config):
            log.info("fold %d is finished", number)
            send_leftovers(folder, number)
            continue
        if run_settings["partial"]:  # a word of the function, not a key of train.json: bundles of 0.1 do not have it
            config["run"] = {**config["run"], "partial": run_settings["partial"]}
        if device != "auto":
            config["device"] = {"_target_": "medseg.components.choose_device", "name": device}
        kept = _kept(folder, folds, resume=resume)
        refuse_mixture(folder, config, kept)
        tell_other_code(folder, number, config, kept)
        settings = config.get("train", {}).get("trainer", {})
        if nested and settings.get("tracking") and not is_helper():
            parent = parent or _parent_run(folder, settings)
            settings["parent_run"] = parent
        reader = own.config(folder, config, trusted) if own.runs(config) else None
        if trusted is not None and reader is None:
            config = trusted.ready(config)
        with stays_ours(folder):
            results[number] = run_config(
                folder, number, config, resume=resume, shown=shown, trusted=trusted is not None, own=reader,
                later=() if resume else folds[1:] if number == folds[0] else (),
            )  # fmt: skip
        if is_helper():  # the first process writes for all
            continue
        _describe_trained(folder, config, own)
    if is_helper():
        return results
    if not results:  # the last run may have been ended before it did this
        if not chosen_over_several(Layout(folder)):
            with stays_ours(folder):
                average_finished(Layout(folder))
        _describe_trained(folder, trained_with(Layout(folder), folds[-1]), own)
    if parent is not None:
        from medseg.tracking.mlflow_logger import close_parent

        # the folds of an earlier, interrupted call belong to the mean as well
        known = {number: metrics_of(folder, number) for number in folds if is_finished(folder, number)}
        close_parent(Layout(folder).runs, settings["experiment"], parent, mean_metrics(known))
    return results


def _describe_trained(folder: Path, config: Mapping[str, Any], own: OwnWords) -> None:
    """Let the bundle's files describe what was trained, and hold the user's own code that it needs; figures as well."""
    with alone_in(Layout(folder).files_lock), stays_ours(folder, code=own.named):
        if own.project is not None and code_for_prediction(config):
            own.project.put(folder)
        keep_definition(folder, config)
        update_figures(folder)


def _kept(folder: Path, folds: Sequence[int], *, resume: bool) -> list[int]:
    """Folds whose weights stay as they are: those that were not asked for, and finished ones of a resumed run."""
    return [n for n in range(number_of_folds(folder)) if n not in folds or (resume and is_finished(folder, n))]


def metrics_of(folder: Path, fold: int) -> dict[str, float]:
    """The last metrics of a finished fold, as its result.json has them."""
    path = Layout(folder).run(fold).result
    facts = read_json(path)
    return {name: float(value) for name, value in facts.items() if name.startswith(("train_", "val_"))}


def _parent_run(folder: Path, settings: Mapping[str, Any]) -> str | None:
    """The MLflow run that the folds are nested under; a resumed `--fold all` finds its first one again."""
    from medseg.tracking.mlflow_logger import open_parent  # MLflow and Lightning, once there is something to train

    runs = Layout(folder).runs
    earlier = read_run_id(runs)
    parent = open_parent(runs, settings["experiment"], run_id=earlier)
    if parent is not None and parent != earlier:
        write_run_id(runs, parent, settings["experiment"])
    return parent


def mean_metrics(results: Mapping[int, Mapping[str, float]]) -> dict[str, float]:
    """Mean of each metric over the folds that have it."""
    names = {name for metrics in results.values() for name in metrics}
    values = {name: [metrics[name] for metrics in results.values() if name in metrics] for name in names}
    return {f"mean_{name}": sum(found) / len(found) for name, found in sorted(values.items())}


def _weights_of(source: str | Path) -> str:
    path = Path(source)
    if path.is_file() and path.suffix == ".pt":
        return str(path.resolve())
    layout = Layout(find_bundle(source))
    folds = predicting_folds(layout)
    weights = layout.fold_weights(folds[0]) if folds else layout.weights  # one of those that predict averages
    if not weights.is_file():
        raise BundleError(f"{source}: has no models/model.pt to start from")
    return str(weights.resolve())


def run_config(
    folder: Path,
    fold: int,
    config: Mapping[str, Any],
    *,
    resume: bool,
    shown: Path | None = None,
    trusted: bool = False,
    later: Sequence[int] = (),
    own: TrustedConfig | None = None,
) -> dict[str, float]:
    """Run one resolved train.json: `initialize`, then `run`, as `python -m monai.bundle run` does.

    Args:
        folder, fold: the bundle and the number of the fold.
        config: see `resolve_config`.
        resume: keep what an earlier run left.
        shown: where a trusted bundle's metadata are read.
        own: the configuration with parts that the user named, in place of both.
        trusted: hand the file to MONAI's own `ConfigWorkflow`, which runs whatever it says; else it is read as data.
        later: folds that the same command trains anew after this one. What they had is set aside now, so that `--resume`
            after an interruption does not take them for finished.

    Raises:
        UntrustedBundleError: something in it needs trust that was not given.
    """
    from medseg.training.fit import prepare_run_folder
    from medseg.training.processes import claim_run

    layout = Layout(folder)
    run = layout.run(fold)
    check_values(config)
    reader: SafeConfig | None = own
    if own is None and not trusted:
        reader = checked_config(json.loads(json.dumps(dict(config))), layout.train)
    with claim_run(folder, fold):
        if reader is not None:
            told_as_raised(reader, build_first)
        else:
            try_weights(config, Layout(shown or folder).metadata)
        if not is_helper():
            prepare_run_folder(run.folder, keep=resume)
            for number in later:
                with claim_run(folder, number):
                    prepare_run_folder(layout.run_folder(number), keep=False)
            if resume:
                tell_changes(run.folder, config)
        if not is_helper() or trusted:
            write_json(run.config, dict(config))
        if reader is None:
            result = run_trusted(run.config, Layout(shown or folder).metadata)
        else:
            result = told_as_raised(reader, lambda built: built.get("run"))
    return dict(result[0] if isinstance(result, list) else result)
