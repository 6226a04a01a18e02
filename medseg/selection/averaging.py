"""Which networks of a bundle predict together: written into inference.json, evaluate.json and models/model.pt.

Every finished fold counts by default. `models` in inference.json lists the weight files, and `models/model.pt` with
`network_def` holds the same networks as one module, since MONAI's commands and MONAI Deploy read one file. evaluate.json takes
for each case only networks that were trained without it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.config import TARGET, read_json
from medseg.io.atomic import atomic_path
from medseg.io.locks import alone_in
from medseg.layout import Layout

from .unfinished import exchange, make_ready, staged

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

AVERAGE = "medseg.components.AveragedNetwork"
HELD_OUT = "medseg.components.averaged_network"
LOADER = {"_target_": "CheckpointLoader", "load_path": "@checkpoint", "load_dict": {"model": "@network"}}
ONE_FILE = "$@bundle_root + '/models/model.pt'"
OF_THE_FOLD = "$@bundle_root + '/models/fold_' + str(@fold) + '/model.pt'"


def averaged_def(members: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`network_def` of several networks as one module; of one network that itself."""
    return dict(members[0]) if len(members) == 1 else {TARGET: AVERAGE, "networks": [dict(each) for each in members]}


def members_of(definition: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The networks of a `network_def`: those that it averages, else itself."""
    if definition.get(TARGET) == AVERAGE and definition.get("networks"):
        return list(definition["networks"])
    return [definition]


def own_network(definition: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a bundle itself trains: the first of the networks averaged."""
    return members_of(definition)[0]


def averaged_state(paths: Sequence[Path]) -> dict[str, torch.Tensor]:
    """State dict of the averaged module of these weight files; of one file that itself."""
    import torch

    states = [torch.load(path, map_location="cpu", weights_only=True) for path in paths]
    if len(states) == 1:
        return dict(states[0])
    return {f"networks.{number}.{name}": value for number, state in enumerate(states) for name, value in state.items()}


def finished_folds(layout: Layout) -> list[int]:
    """Folds whose training has ended and whose weights are there."""
    return [fold for fold in layout.finished_runs() if layout.fold_weights(fold).is_file()]


def predicting_folds(layout: Layout) -> list[int]:
    """Folds of the bundle that inference.json averages; none where it lists no files."""
    listed = read_json(layout.inference).get("models") if layout.inference.is_file() else None
    names = listed if isinstance(listed, list) else []
    own = {_inside(layout, layout.fold_weights(fold)): fold for fold in layout.finished_runs()}
    return [own[name] for name in names if name in own]


def chosen_over_several(layout: Layout) -> bool:
    """Whether inference.json averages networks of other bundles too, as `medseg cv` may choose."""
    listed = read_json(layout.inference).get("models") if layout.inference.is_file() else None
    return isinstance(listed, list) and len(listed) > len(predicting_folds(layout))


def average_finished(layout: Layout) -> list[int]:
    """Let predict average every finished fold; returns the folds.

    Parallel trainings of one bundle end one after the other here, so that the last one sees all of them.
    """
    with alone_in(layout.files_lock):
        folds = finished_folds(layout)
        if folds:
            files = [_inside(layout, layout.fold_weights(fold)) for fold in folds]
            use_networks(layout, files, {}, listed=len(files) > 1, trained=trained_with(layout, folds[-1]))
    return folds


def trained_with(layout: Layout, fold: int) -> dict[str, Any]:
    """`network_def` and `preprocessing_def` as the record of a fold's run has them; nothing where there is no record.

    The finished folds of a bundle share them: `medseg fit` trains none otherwise than those that stay.
    """
    path = layout.run(fold).config
    record = read_json(path) if path.is_file() else {}
    return {key: record[key] for key in ("network_def", "preprocessing_def") if isinstance(record.get(key), Mapping)}


def use_networks(
    layout: Layout,
    models: Sequence[str],
    others: Mapping[str, Mapping[str, Any]],
    *,
    listed: bool = True,
    trained: Mapping[str, Any] | None = None,
) -> None:
    """Write which weight files predict together; a kill at any moment leaves the old choice or this one.

    Args:
        layout: the bundle.
        models: weight files relative to the bundle, the bundle's own first.
        others: files of these whose network is not the bundle's own -> its `network_def`.
        listed: name the files in inference.json; a single one may be left to `models/model.pt`.
        trained: `network_def` and `preprocessing_def` that the bundle's own weights were trained with, where they may be
            other ones than in inference.json.
    """
    with alone_in(layout.files_lock):
        make_ready(layout)
        if layout.trust.exists():  # learned of the weights of before
            layout.trust.unlink()
            log.info("%s is removed, for the weights change; `medseg cv` learns it anew", layout.trust)
        with atomic_path(staged(layout.weights)) as temporary:
            write_average([layout.folder / name for name in models], temporary)
        exchange(layout, configs_of(layout, models, others, listed=listed, trained=trained), [layout.weights])


def configs_of(
    layout: Layout,
    models: Sequence[str],
    others: Mapping[str, Mapping[str, Any]],
    *,
    listed: bool = True,
    trained: Mapping[str, Any] | None = None,
) -> dict[Path, dict[str, Any]]:
    """inference.json and evaluate.json with these networks, by path; the arguments are those of `use_networks`."""
    found = {}
    for path in (layout.inference, layout.evaluate):
        config = read_json(path) if path.is_file() else {}
        if not isinstance(config.get("network_def"), Mapping):
            continue
        config |= {key: value for key, value in (trained or {}).items() if key in config}
        if path == layout.evaluate:
            found[path] = _held_out(config, several=bool(others))
            continue
        own = own_network(config["network_def"])
        found[path] = _predicting(config, models, [others.get(name, own) for name in models])
        if not listed:
            del found[path]["models"]
    return found


def write_average(paths: Sequence[Path], target: Path) -> None:
    """Write the state dict of the averaged module of these weight files."""
    import torch

    state = averaged_state(paths)
    torch.save({name: tensor.detach().cpu().clone() for name, tensor in state.items()}, target)


def replaced_own(definition: Mapping[str, Any], trained: Mapping[str, Any]) -> dict[str, Any]:
    """A `network_def` with what was trained in the place of the bundle's own network."""
    own = own_network(definition)
    return averaged_def([trained if member == own else member for member in members_of(definition)])


def _predicting(config: dict[str, Any], models: Sequence[str], members: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    config.pop("member_networks", None)
    config.pop("models", None)
    config["models"] = list(models)
    return _with_loader({**config, "network_def": averaged_def(members)}, ONE_FILE)


def _held_out(config: dict[str, Any], *, several: bool) -> dict[str, Any]:
    """evaluate.json: the network of the fold whose cases are evaluated; with other bundles' networks, those of that fold."""
    for key in ("models", "member_networks"):
        config.pop(key, None)
    config = _with_loader({**config, "network_def": dict(own_network(config["network_def"]))}, OF_THE_FOLD)
    if several:
        config["network"] = {TARGET: HELD_OUT, "bundle_root": "@bundle_root", "device": "@device", "fold": "@fold"}
        config["handlers"] = [entry for entry in config["handlers"] if entry != LOADER]
    return config


def _with_loader(config: dict[str, Any], checkpoint: str) -> dict[str, Any]:
    handlers = config.get("handlers", [])
    others = [entry for entry in handlers if not str(entry.get(TARGET, "")).endswith("CheckpointLoader")]
    changed = {"network": "$@network_def.to(@device)", "checkpoint": checkpoint, "handlers": [dict(LOADER), *others]}
    return {**config, **changed}


def _inside(layout: Layout, path: Path) -> str:
    return path.relative_to(layout.folder).as_posix()
