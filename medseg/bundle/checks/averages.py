"""Checks of what predicts together: model.pt holds the listed networks, and evaluate.json takes none that saw its cases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medseg.config import TARGET, read_json
from medseg.layout import Layout
from medseg.selection.averaging import averaged_state

from ..weights import read_state_dict, sha256_of


def members_differ(layout: Layout) -> list[str]:
    """models/model.pt has to hold the very networks that inference.json lists: MONAI's commands read the one, predict the others."""
    import torch

    listed = _listed(layout)
    if len(listed) < 2 or not layout.weights.is_file():
        return []
    expected, found = averaged_state([layout.folder / name for name in listed]), read_state_dict(layout.weights)
    if not any(name.startswith("networks.") for name in found):
        return []  # written by 0.1, where MONAI's commands read the listed files themselves
    if set(expected) != set(found) or any(not torch.equal(expected[name], found[name]) for name in expected):
        return [
            "models/model.pt does not hold the networks that inference.json lists in models; run `medseg fit --resume`"
        ]
    return []


def check_evaluation(layout: Layout, configs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """evaluate.json scores the validation cases of a fold: only with networks that were trained without them."""
    config = configs.get("evaluate.json")
    if not config or not layout.splits.is_file():
        return []
    fold = config.get("fold", 0)
    network, checkpoint = config.get("network"), str(config.get("checkpoint", ""))
    if isinstance(network, Mapping) and str(network.get(TARGET, "")).endswith("averaged_network"):
        if network.get("fold") == "@fold":
            return []
        seen = [name for name in _listed(layout) if f"fold_{fold}" not in name.split("/")]
        return [_leak(fold, seen[0])] if seen else []
    if "@fold" in checkpoint:
        return []
    file = layout.folder / checkpoint.split("@bundle_root + '/")[-1].rstrip("'")
    others = [number for number in range(len(read_json(layout.splits))) if number != fold]
    folds = {number: layout.fold_weights(number) for number in others if layout.fold_weights(number).is_file()}
    if file in folds.values():
        return [_leak(fold, checkpoint)]
    if file != layout.weights or not file.is_file():
        return []
    listed = [name for name in _listed(layout) if f"fold_{fold}" not in name.split("/")]
    if listed:
        return [_leak(fold, listed[0])]
    digest = sha256_of(file)
    same = [path for path in folds.values() if sha256_of(path) == digest]
    return [_leak(fold, same[0].relative_to(layout.folder).as_posix())] if same else []


def _leak(fold: object, name: str) -> str:
    return (
        f"configs/evaluate.json: scores the validation cases of fold {fold} with {name}, whose network was trained on them; "
        "its checkpoint has to be that of @fold"
    )


def _listed(layout: Layout) -> list[str]:
    listed = read_json(layout.inference).get("models") if layout.inference.is_file() else None
    return [str(name) for name in listed] if isinstance(listed, list) else []
