"""Refuse wrong arguments of window attention in Python, naming the argument, what was found and what was expected."""

from __future__ import annotations

import torch
from torch import Tensor

from medseg_kernels.prepared import once

from .windows import GEOMETRIES, product

PAD_MODES = ("mask", "input")
BIAS_INDEXES = ("geometric", "monai")
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def fail(argument: str, found: object, expected: str) -> None:
    """Raise the family's ValueError."""
    raise ValueError(f"window_attention: {argument} is {found}, expected {expected}")


def one_of(argument: str, found: str, allowed: tuple[str, ...]) -> None:
    """Refuse a word that is not in a list."""
    if found not in allowed:
        fail(argument, repr(found), " or ".join(repr(name) for name in allowed))


def shape(argument: str, tensor: Tensor | None, expected: list[int], letters: str) -> None:
    """Refuse a tensor of another shape."""
    if tensor is not None and list(tensor.shape) != expected:
        fail(f"shape of {argument}", tuple(tensor.shape), f"{letters} = {tuple(expected)}")


def settings(geometry: str, pad_mode: str, bias_index: str, dropout: float, dims: int) -> None:
    """Check what needs no tensor."""
    one_of("geometry", geometry, GEOMETRIES)
    one_of("pad_mode", pad_mode, PAD_MODES)
    one_of("bias_index", bias_index, BIAS_INDEXES)
    if not 0.0 <= dropout < 1.0:
        fail("dropout", dropout, "0 <= dropout < 1")
    if dims not in (1, 2, 3):
        fail("number of grid axes", dims, "1, 2 or 3: qkv is (B, X, Y, Z, 3, heads, head_dim)")


def axes(argument: str, values: list[int], dims: int, least: int) -> None:
    """Check one integer per axis."""
    if len(values) != dims:
        fail(argument, values, f"{dims} integers, one per grid axis")
    if any(value < least for value in values):
        fail(argument, values, f"integers >= {least}")


def packed(qkv: Tensor, kv: Tensor | None, global_query: Tensor | None, dims: int) -> None:
    """Check the tensor of tokens, of which the others' shapes follow."""
    if qkv.dtype not in DTYPES:
        fail("dtype of qkv", qkv.dtype, ", ".join(str(dtype) for dtype in DTYPES))
    if kv is not None and global_query is not None:
        fail("kv", "given together with global_query", "one of them: with global_query, qkv holds k and v")
    roles = 0 if kv is not None else 2 if global_query is not None else 3
    if roles and qkv.shape[1 + dims] != roles:
        letters = f"(B, {'X, Y, Z'[: 3 * dims - 2]}, {roles}, heads, head_dim)"
        fail("shape of qkv", tuple(qkv.shape), letters)
    if any(size < 1 for size in qkv.shape):
        fail("shape of qkv", tuple(qkv.shape), "no axis of length 0")
    if kv is not None:
        shape("kv", kv, [*qkv.shape[:-2], 2, *qkv.shape[-2:]], "(B, grid, 2, heads, head_dim) to the q given as qkv")


@once
def companions(
    qkv: Tensor,
    tensors: dict[str, Tensor | None],
    *,
    window: list[int],
    windows: int,
    table_window: list[int],
    dims: int,
) -> None:
    """Check every other tensor against the tokens; `window` is the effective one, both with three axes."""
    batch, heads, channels = qkv.shape[0], qkv.shape[-2], qkv.shape[-1]
    for name, tensor in tensors.items():
        if tensor is not None and tensor.device != qkv.device:
            fail(f"device of {name}", tensor.device, f"that of qkv, {qkv.device}")
        if tensor is not None and not tensor.is_floating_point():
            fail(f"dtype of {name}", tensor.dtype, "a floating type")
    carriers = tensors["carriers"]
    extra = 0
    if carriers is not None:
        extra = carriers.shape[2] if carriers.dim() == 6 else 1
        shape("carriers", carriers, [batch, windows, extra, 3, heads, channels], "(B, windows, M, 3, heads, head_dim)")
    query = tensors["global_query"]
    expected = [batch, *window[3 - dims :], heads, channels]
    shape("global_query", query, expected, "(B, effective window, heads, head_dim)")
    table, dense = tensors["bias_table"], tensors["bias"]
    if table is not None and dense is not None:
        fail("bias", "given together with bias_table", "one of them")
    rows = product([2 * size - 1 for size in table_window])
    shape("bias_table", table, [rows, heads], "(prod(2 window_size - 1), heads)")
    tokens = extra + product(window)
    shape("bias", dense, [heads, tokens, tokens], "(heads, U, U), U = carriers and tokens of the effective window")
    for name, lead in (("pad_qkv", []), ("sample_qkv", [batch])):
        tensor = tensors[name]
        if tensor is not None and list(tensor.shape) not in (
            [*lead, 3, heads, channels],
            [*lead, 3 * heads * channels],
        ):
            full = (*lead, 3, heads, channels)
            fail(f"shape of {name}", tuple(tensor.shape), f"{full} or the same with the last three axes in one")


def seeds(qkv: Tensor, seed: Tensor | None) -> None:
    """One integer where the tokens are: a seed elsewhere would make every launch wait for a copy."""
    if seed is None:
        return
    if seed.dtype != torch.int64 or seed.numel() != 1:
        fail("seed", f"{tuple(seed.shape)} {seed.dtype}", "one number in an int64 tensor")
    if seed.device != qkv.device:
        fail("device of seed", seed.device, f"that of qkv, {qkv.device}")
