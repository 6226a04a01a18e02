"""Weights of one network for another of the same kind: classes as rows of the heads, channels as columns of the stem, kernels
and position tables resized; a list of what became of every entry.

Sources: the mean over channels times their ratio keeps a stem's response; a plane of zeros on both sides of a flat kernel is the
same function; a new class that begins as a faint copy of the background follows Cermelli et al. 2020 (modelling the
background).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

# Beginnings of names of the layers with one row per class: ours, and nnU-Net's.
HEADS = ("head", "coarse_heads", "decoder.seg_layers")
# Logits by which a class without an old one begins below the background, whose row it copies: a share of e^-3, 5 %.
FAINT = 3.0
ROWS = "rows by class"


@dataclass(frozen=True)
class Places:
    """Where the rows and columns of the new network come from.

    Args:
        rows: per output, the old network's output, or None for a class that it does not have.
        columns: per image channel, the old network's channel, or None where its names tell nothing.
        old_rows, old_columns: how many the old network has.
        background: begin new classes as the background; not for overlapping regions, whose outputs have none.
    """

    rows: tuple[int | None, ...]
    columns: tuple[int | None, ...]
    old_rows: int
    old_columns: int
    background: bool = True


@dataclass
class Transfer:
    """What became of the entries of a network.

    Args:
        state: complete, for the new network.
        loaded: names that are as in the source.
        reshaped: name -> what was done to it.
        skipped: name of the new network -> why it stayed as made.
        unused: names of the source that have no place.
        share: of the new network's numbers that come from the source.
    """

    state: dict[str, Tensor] = field(default_factory=dict)
    loaded: list[str] = field(default_factory=list)
    reshaped: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    share: float = 0.0


def adapt_state(own: Mapping[str, Tensor], source: Mapping[str, Tensor], places: Places) -> Transfer:
    """Weights of the old network in the shapes of the new one.

    Args:
        own: state of the new network as made.
        source: state of the old one, under the same names.
        places: what rows and columns mean.
    """
    found = Transfer()
    taken = 0
    for name, made in own.items():
        old = source.get(name)
        value, how = (None, "not in the source") if old is None else _changed(name, old, made, places)
        if value is None or value.shape != made.shape or value.is_floating_point() != made.is_floating_point():
            found.skipped[name] = how or f"{list(old.shape) if old is not None else '-'} there, {list(made.shape)} here"
            found.state[name] = made.clone()
            continue
        found.state[name] = value.to(made.dtype).clone()
        known = sum(row is not None for row in places.rows) / len(places.rows) if how == ROWS else 1.0
        taken += round(made.numel() * known)
        if how:
            found.reshaped[name] = how
        else:
            found.loaded.append(name)
    found.unused = sorted(set(source) - set(own))
    found.share = taken / max(1, sum(value.numel() for value in own.values()))
    return found


def missing_statistics(own: Mapping[str, Tensor], source: Mapping[str, Tensor]) -> list[str]:
    """Running statistics of batch norms that the source does not bring although it brings the norms' weights."""
    ends = (".running_mean", ".running_var")
    kept = [name for name in own if name.endswith(ends) and name not in source]
    return [name for name in kept if f"{name.rpartition('.')[0]}.weight" in source]


def _changed(name: str, old: Tensor, made: Tensor, places: Places) -> tuple[Tensor | None, str]:
    """The old entry in the new shape and what was done to it; None and why not."""
    if _is_head(name) and old.shape[:1] == (places.old_rows,) and made.shape[:1] == (len(places.rows),):
        if places.rows == tuple(range(places.old_rows)):
            return old, ""
        return _rows(name, old, made, places), ROWS
    one_stem = old.ndim >= 3 and old.shape[1] == places.old_columns and made.shape[1:2] == (len(places.columns),)
    same_order = places.columns == tuple(range(places.old_columns))
    if one_stem and not same_order and old.shape[0] == made.shape[0] and _is_stem(name):
        columns = _columns(old, places)
        return _resized(columns, made, "channels by name")
    if old.shape == made.shape:
        return old, ""
    return _resized(old, made, "")


def _is_head(name: str) -> bool:
    return any(name.startswith(f"{head}.") for head in HEADS)


def _is_stem(name: str) -> bool:
    """What reads the image: the entry of a level and nnU-Net's first block."""
    return ".entry." in name or name.startswith(("encoder.stem.", "encoder.stages.0."))


def _rows(name: str, old: Tensor, made: Tensor, places: Places) -> Tensor:
    rows = []
    for number, place in enumerate(places.rows):
        if place is not None:
            rows.append(old[place])
        elif places.background:
            rows.append(old[0] - FAINT if old.ndim == 1 else old[0])
        else:
            rows.append(made[number].to(old.dtype))
    return torch.stack(rows)


def _columns(old: Tensor, places: Places) -> Tensor:
    """Columns by name; where no name is known, the mean over the old channels times the ratio of their numbers."""
    if all(place is None for place in places.columns):
        return old.mean(dim=1, keepdim=True).expand(-1, len(places.columns), *old.shape[2:]) * (
            places.old_columns / len(places.columns)
        )
    columns = [torch.zeros_like(old[:, 0]) if place is None else old[:, place] for place in places.columns]
    return torch.stack(columns, dim=1)


def _resized(old: Tensor, made: Tensor, done: str) -> tuple[Tensor | None, str]:
    if old.shape == made.shape:
        return old, done
    if old.ndim != made.ndim or old.ndim < 2:
        return None, ""
    if old.ndim >= 4 and old.shape[:2] == made.shape[:2]:
        return _kernel(old, made.shape[2:]), _and(done, f"kernel {_by(old.shape[2:])} -> {_by(made.shape[2:])}")
    if old.ndim == 3 and old.shape[:2] == made.shape[:2]:  # tables of positions along one axis
        table = functional.interpolate(old.float(), size=int(made.shape[2]), mode="linear", align_corners=True)
        return table, _and(done, f"positions {old.shape[2]} -> {made.shape[2]}")
    if old.ndim == 2 and old.shape[1] == made.shape[1]:
        return _square_table(old, made), _and(done, f"position table {old.shape[0]} -> {made.shape[0]}")
    return None, ""


def _square_table(old: Tensor, made: Tensor) -> Tensor | None:
    """A table of relative positions (entries, heads) of a cubic or square window, resized along each axis."""
    for dims in (3, 2):
        sides = [round(len(table) ** (1 / dims)) for table in (old, made)]
        if all(side % 2 and side**dims == len(table) for side, table in zip(sides, (old, made), strict=True)):
            grid = old.float().t().reshape(1, old.shape[1], *([sides[0]] * dims))
            mode = "trilinear" if dims == 3 else "bilinear"
            grown = functional.interpolate(grid, size=[sides[1]] * dims, mode=mode, align_corners=True)
            return grown.reshape(old.shape[1], -1).t()
    return None


def _kernel(old: Tensor, extent: Sequence[int]) -> Tensor:
    """A kernel of another extent: zeros around an axis of one tap, else resized with the same sum."""
    value = old
    for axis, (found, wanted) in enumerate(zip(old.shape[2:], extent, strict=True), start=2):
        if found == wanted:
            continue
        if found == 1 and wanted % 2:
            pads = [0, 0] * (old.ndim - 1 - axis) + [wanted // 2, wanted // 2]
            value = functional.pad(value, pads)
        else:
            moved = value.movedim(axis, -1)
            flat = moved.reshape(1, -1, found).float()
            grown = (
                flat.sum(dim=-1, keepdim=True)
                if wanted == 1
                else functional.interpolate(flat, size=wanted, mode="linear", align_corners=True) * (found / wanted)
            )
            value = grown.reshape(*moved.shape[:-1], wanted).movedim(-1, axis).to(old.dtype)
    return value


def _by(extent: Sequence[int]) -> str:
    return "x".join(str(int(side)) for side in extent)


def _and(first: str, second: str) -> str:
    return f"{first}, {second}" if first else second
