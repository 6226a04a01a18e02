"""Tables that the GPU kernels read instead of computing where tokens are; made once per geometry and device."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from .call import Problem
from .windows import bias_center, bias_codes, product, token_index

PITCH = 128  # rows of the tables are filled up to a multiple of this, the longest tile
HIDDEN, CARRIER = 8, -1  # groups of what no real query sees, and of what all see


@dataclass(frozen=True)
class WindowTables:
    """Per window, its carriers first: rows (W, P) int32, the raster number of each token's place in the grid or -1; groups
    (W, P) int8: 0 to 7 say along which axes a token wrapped around, tokens see their own group only; 8 hides, -1 is seen by all.

    masked: whether any group differs, so that scores have to be looked at.
    """

    rows: Tensor
    groups: Tensor
    masked: bool


@dataclass(frozen=True)
class BiasTables:
    """row + column (each (P,) int32) is the entry of a pair; inverse: token of a code, or -1; codes (T,) int32."""

    row: Tensor
    column: Tensor
    codes: Tensor
    inverse: Tensor


def pitch(tokens: int) -> int:
    """P of U tokens."""
    return -(-tokens // PITCH) * PITCH


def window_tables(p: Problem) -> WindowTables:
    """Those of a problem."""
    hide = p.pad_mode == "mask"
    return _window_tables(
        tuple(p.grid), tuple(p.window), tuple(p.shift), p.geometry, hide, p.extra, str(p.qkv.device)
    )  # fmt: skip


def bias_tables(p: Problem) -> BiasTables:
    """Those of a problem with a bias table or a dense bias."""
    if p.bias_table is None:
        return _dense_tables(p.tokens, str(p.qkv.device))
    return _bias_tables(tuple(p.table_window), tuple(p.window), p.bias_index, p.extra, str(p.qkv.device))


@functools.lru_cache(maxsize=64)
def _window_tables(
    grid: tuple[int, ...],
    window: tuple[int, ...],
    shift: tuple[int, ...],
    geometry: str,
    hide: bool,
    extra: int,
    device: str,
) -> WindowTables:
    source, region = token_index(list(grid), list(window), list(shift), geometry, torch.device("cpu"))
    if hide:
        region = torch.where(source < 0, HIDDEN, region)
    beyond = pitch(extra + product(list(window))) - product(list(window)) - extra
    rows = torch.nn.functional.pad(source, (extra, beyond), value=-1)
    groups = torch.nn.functional.pad(
        torch.nn.functional.pad(region, (extra, 0), value=CARRIER), (0, beyond), value=HIDDEN
    )
    masked = bool((region != region[0, 0]).any())
    return WindowTables(rows.to(torch.int32).to(device), groups.to(torch.int8).to(device), masked)


@functools.lru_cache(maxsize=64)
def _bias_tables(
    table_window: tuple[int, ...], window: tuple[int, ...], index: str, extra: int, device: str
) -> BiasTables:
    codes = bias_codes(list(table_window), list(window), index, torch.device("cpu")).to(torch.int32)
    # a code of 0 for carriers and beyond the end: with any other code it makes an entry that exists
    padded = torch.nn.functional.pad(codes, (extra, pitch(extra + len(codes)) - extra - len(codes)))
    inverse = torch.full((product([2 * size - 1 for size in table_window]),), -1, dtype=torch.int32)
    inverse[codes.long()] = torch.arange(len(codes), dtype=torch.int32)
    row = padded + bias_center(list(table_window))
    return BiasTables(*(table.to(device) for table in (row, -padded, codes, inverse)))


@functools.lru_cache(maxsize=16)
def _dense_tables(tokens: int, device: str) -> BiasTables:
    column = torch.nn.functional.pad(torch.arange(tokens, dtype=torch.int32), (0, pitch(tokens) - tokens))
    return BiasTables(*(table.to(device) for table in (column * tokens, column, column, column)))
