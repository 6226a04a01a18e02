"""The public functions of window attention and the operator `medseg::window_attention` behind them.

Eager code and `torch.compile` reach the registered operator, which chooses a backend; TorchScript, tracing and export take
the readable torch form (`reference.attend`), so that exported files need nothing of this package.
"""

from __future__ import annotations

from typing import List, Optional, Tuple, Union

import torch
from torch import Tensor

from medseg_kernels import dispatch

from . import checks
from .op import BACKENDS, run_attention
from .reference import attend
from .windows import effective_window, product, windows_per_axis


def window_attention(
    qkv: Tensor,
    window_size: Union[int, List[int]],
    shift_size: Union[int, List[int]] = 0,
    bias_table: Optional[Tensor] = None,
    kv: Optional[Tensor] = None,
    global_query: Optional[Tensor] = None,
    bias: Optional[Tensor] = None,
    bias_index: str = "geometric",
    pad_mode: str = "mask",
    pad_qkv: Optional[Tensor] = None,
    sample_qkv: Optional[Tensor] = None,
    geometry: str = "block",
    causal: bool = False,
    radius: Optional[List[int]] = None,
    scale: Optional[float] = None,
    dropout: float = 0.0,
    seed: Optional[Tensor] = None,
    backend: Optional[str] = None,
) -> Tensor:
    """Multi-head attention inside the windows of a 1D, 2D or 3D grid, without partitioning it.

    Args:
        qkv: (B, X, Y, Z, 3, heads, head_dim), or one or two grid axes; any strides; head_dim 1 to 128 for the compiled
            backends. With `kv`: q alone, (B, X, Y, Z, heads, head_dim). With `global_query`: k and v,
            (B, X, Y, Z, 2, heads, head_dim).
        window_size: tokens per axis (an integer means the same for all axes). An axis of the grid that is no longer
            than its window is one window, unshifted.
        shift_size: cyclic shift in tokens, 0 <= shift < window. Tokens that wrapped around are not mixed with others.
        bias_table: (prod(2 w_i - 1), heads), relative-position bias with the last axis fastest, as in Swin; or what a
            continuous-position MLP makes of `relative_coordinates(window_size)`. Made for the window before clipping.
        kv: (B, X, Y, Z, 2, heads, head_dim), keys and values apart from the queries.
        global_query: (B, *effective window, heads, head_dim), one set of queries for all windows of a sample (GC ViT).
        bias: (heads, T, T), a dense bias instead of the table; T tokens in the effective window, last axis fastest.
        bias_index: how a clipped axis reads the table: "geometric", or "monai" for weights that MONAI trained.
        pad_mode: "mask" hides padded tokens; "input" lets them take part holding `pad_qkv`, as MONAI does.
        pad_qkv: (3, heads, head_dim) or (3 * heads * head_dim,), what padded tokens hold: the bias of the layer that
            made qkv. Zero when absent. Used with pad_mode="input" only.
        sample_qkv: (B, 3, heads, head_dim) or (B, 3 * heads * head_dim), added to q, k, v of every token of a sample,
            padded ones included (DiffiT).
        geometry: "block", windows of neighbours; "grid", windows of tokens spread evenly over the grid (dilated);
            "stripe", the heads fall into as many groups as there are axes, group a attends in bars that run the whole
            length of axis a and are `window_size` thick along the others (width 1: axial attention).
        causal: a query sees no key that comes after it in the window's raster order.
        radius: greatest distance per axis between query and key, in tokens of the window; -1 for no limit. A window
            that covers the grid together with a radius is a sliding window.
        scale: factor of the dot product, head_dim ** -0.5 by default.
        dropout: probability of dropping an attention weight.
        seed: int64 tensor with one element, the key of the dropout generator; drawn from torch's generator if absent.
        backend: "triton", "cpu", "reference", or None for the first that can run.

    Returns:
        (B, X, Y, Z, heads * head_dim) in the type of qkv (under autocast: in autocast's type).

    Raises:
        ValueError: an argument has a wrong shape, type, device or value; the message names it.
        BackendError: the backend that was asked for cannot run.

    Example:
        >>> qkv = torch.randn(1, 9, 8, 5, 3, 2, 16)
        >>> window_attention(qkv, [4, 4, 4], [2, 2, 2]).shape
        torch.Size([1, 9, 8, 5, 32])

    Sources: Liu et al. 2021 (Swin), Tu et al. 2022 (grid), Dong et al. 2022 (stripes), Hatamizadeh et al. 2023 (global
    query, carrier tokens) and 2024 (sample vector). Differences are listed in the folder's README.
    """
    options = (geometry, pad_mode, bias_index, causal, dropout)
    return _over_groups(
        qkv, kv, global_query, None, sample_qkv, pad_qkv, bias_table, bias, seed, window_size, shift_size, radius, scale,
        options, backend,
    )[0]  # fmt: skip


def window_attention_with_carriers(
    qkv: Tensor,
    carriers: Tensor,
    window_size: Union[int, List[int]],
    shift_size: Union[int, List[int]] = 0,
    bias_table: Optional[Tensor] = None,
    kv: Optional[Tensor] = None,
    global_query: Optional[Tensor] = None,
    bias: Optional[Tensor] = None,
    bias_index: str = "geometric",
    pad_mode: str = "mask",
    pad_qkv: Optional[Tensor] = None,
    sample_qkv: Optional[Tensor] = None,
    geometry: str = "block",
    causal: bool = False,
    radius: Optional[List[int]] = None,
    scale: Optional[float] = None,
    dropout: float = 0.0,
    seed: Optional[Tensor] = None,
    backend: Optional[str] = None,
) -> Tuple[Tensor, Tensor]:
    """`window_attention` with extra tokens in every window, joined without a concatenated copy (FasterViT).

    Args:
        qkv, window_size, ...: as in `window_attention`.
        carriers: (B, windows, M, 3, heads, head_dim), windows in raster order (`window_grid` counts them per axis). They
            come before the window's own tokens, see all of them and are seen by all; a bias table leaves them at zero, a
            dense `bias` is (heads, M + T, M + T); shift, predicate and `sample_qkv` do not concern them.

    Returns:
        (tokens (B, X, Y, Z, heads * head_dim), carriers (B, windows, M, heads * head_dim)).
    """
    options = (geometry, pad_mode, bias_index, causal, dropout)
    return _over_groups(
        qkv, kv, global_query, carriers, sample_qkv, pad_qkv, bias_table, bias, seed, window_size, shift_size, radius,
        scale, options, backend,
    )  # fmt: skip


def window_grid(grid: List[int], window_size: List[int]) -> Tuple[List[int], List[int]]:
    """(effective window, number of windows per axis) of a grid.

    Example:
        >>> window_grid([9, 8, 5], [4, 4, 7])
        ([4, 4, 5], [3, 2, 1])
    """
    window, _ = effective_window(grid, window_size, [0] * len(grid))
    return window, windows_per_axis(grid, window)


def explain_backend(*tensors: Tensor) -> str:
    """One line per backend: which would run on these tensors, and why the others do not."""
    return dispatch.explain("window_attention", BACKENDS, *tensors)


def _per_axis(value: Union[int, List[int]], dims: int) -> List[int]:
    if isinstance(value, int):
        return [value] * dims
    return list(value)


def _lead(values: List[int], fill: int) -> List[int]:
    """Values of one to three axes brought to three."""
    return [fill] * (3 - len(values)) + values


def _cube(tensor: Tensor, dims: int) -> Tensor:
    """A tensor (B, grid, ...) with its grid brought to three axes; a view."""
    for _ in range(3 - dims):
        tensor = tensor.unsqueeze(1)
    return tensor


def _over_groups(
    qkv: Tensor,
    kv: Optional[Tensor],
    global_query: Optional[Tensor],
    carriers: Optional[Tensor],
    sample: Optional[Tensor],
    padding: Optional[Tensor],
    bias_table: Optional[Tensor],
    dense_bias: Optional[Tensor],
    seed: Optional[Tensor],
    window_size: Union[int, List[int]],
    shift_size: Union[int, List[int]],
    radius: Optional[List[int]],
    scale: Optional[float],
    options: Tuple[str, str, str, bool, float],
    backend: Optional[str],
) -> Tuple[Tensor, Tensor]:
    """Bring a call to three dimensions and, for stripes, to one call per group of heads."""
    geometry, dims = options[0], qkv.dim() - (3 if kv is not None else 4)
    window, shift = _per_axis(window_size, dims), _per_axis(shift_size, dims)
    reach = [-1] * dims if radius is None else radius
    if not torch.jit.is_scripting():  # type: ignore[attr-defined]
        _check(options, dims, window, shift, reach)
        checks.packed(qkv, kv, global_query, dims)
        if geometry == "stripe":
            _check_stripe(qkv, dims, [kv, global_query, carriers, dense_bias])
    grid = list(qkv.shape[1 : 1 + dims])
    qkv, heads, channels = _cube(qkv, dims), qkv.shape[-2], qkv.shape[-1]
    kv = _cube(kv, dims) if kv is not None else None
    factor = scale if scale is not None else float(channels) ** -0.5
    window, shift, reach = _lead(window, 1), _lead(shift, 0), _lead(reach, -1)
    if geometry != "stripe":
        out, extra = _one_geometry(
            qkv, kv, global_query, carriers, sample, padding, bias_table, dense_bias, seed, window, shift, reach, factor,
            options, backend, dims,
        )  # fmt: skip
        return out.reshape([qkv.shape[0]] + grid + [heads * channels]), extra  # noqa: RUF005, TorchScript
    group, parts = heads // dims, torch.jit.annotate(List[Tensor], [])
    sample = sample.reshape(qkv.shape[0], 3, heads, channels) if sample is not None else None
    padding = padding.reshape(3, heads, channels) if padding is not None else None
    blocks = ("block", options[1], options[2], options[3], options[4])
    for axis in range(dims):
        long = list(window)
        long[3 - dims + axis] = grid[axis]
        first, last = axis * group, (axis + 1) * group
        part, _ = _one_geometry(
            qkv[..., first:last, :],
            None,
            None,
            None,
            sample[:, :, first:last] if sample is not None else None,
            padding[:, first:last] if padding is not None else None,
            bias_table[:, first:last] if bias_table is not None else None,
            None,
            seed,
            long,
            shift,
            reach,
            factor,
            blocks,
            backend,
            dims,
        )
        parts.append(part)
    out = torch.cat(parts, dim=-1).reshape([qkv.shape[0]] + grid + [heads * channels])  # noqa: RUF005, TorchScript
    return out, out.new_zeros([qkv.shape[0], 0, 0, heads * channels])


def _one_geometry(
    qkv: Tensor,
    kv: Optional[Tensor],
    global_query: Optional[Tensor],
    carriers: Optional[Tensor],
    sample: Optional[Tensor],
    padding: Optional[Tensor],
    bias_table: Optional[Tensor],
    dense_bias: Optional[Tensor],
    seed: Optional[Tensor],
    table_window: List[int],
    shift_size: List[int],
    radius: List[int],
    scale: float,
    options: Tuple[str, str, str, bool, float],
    backend: Optional[str],
    dims: int,
) -> Tuple[Tensor, Tensor]:
    """One block or grid call in three dimensions."""
    geometry, pad_mode, bias_index, causal, dropout = options
    window, shift = effective_window([qkv.shape[1], qkv.shape[2], qkv.shape[3]], table_window, shift_size)
    batch, heads, channels = qkv.shape[0], qkv.shape[-2], qkv.shape[-1]
    if not torch.jit.is_scripting():  # type: ignore[attr-defined]
        named = {
            "kv": kv,
            "global_query": global_query,
            "carriers": carriers,
            "bias_table": bias_table,
            "bias": dense_bias,
            "pad_qkv": padding,
            "sample_qkv": sample,
        }
        windows = product(windows_per_axis([qkv.shape[1], qkv.shape[2], qkv.shape[3]], window))
        checks.companions(qkv, named, window=window, windows=windows, table_window=table_window, dims=dims)
        checks.seeds(qkv, seed)
    if pad_mode == "mask":
        padding = None
    if padding is not None:
        padding = padding.reshape(3, heads, channels)
    if sample is not None:
        sample = sample.reshape(batch, 3, heads, channels)
    if global_query is not None:
        global_query = global_query.reshape(batch, product(window), heads, channels)
    if dropout > 0.0 and seed is None:
        seed = torch.randint(0, 2147483647, [1], dtype=torch.int64, device=qkv.device)
    if not torch.jit.is_scripting():  # type: ignore[attr-defined]
        kind = _call_type(qkv)
        many = [None if t is None else t.to(kind) for t in (qkv, kv, global_query, carriers, sample, padding)]
        if not _outside_the_op():
            dispatch.refuse_forward_mode("window_attention", *many, bias_table, dense_bias)
            out, extra, _ = run_attention(
                *many, bias_table, dense_bias, seed, table_window, shift_size, radius, causal, geometry, pad_mode,
                bias_index, scale, dropout, backend or "",
            )  # fmt: skip
            return out, extra
        kv, global_query, carriers, sample, padding = many[1:]
        qkv = qkv.to(kind)
    return attend(
        qkv, kv, global_query, carriers, sample, padding, bias_table, dense_bias, seed, table_window, window, shift,
        radius, causal, geometry, pad_mode, bias_index, scale, dropout,
    )  # fmt: skip


@torch.jit.unused
def _outside_the_op() -> bool:
    """Whether a graph is being recorded that must work without this package."""
    return torch.jit.is_tracing() or torch.compiler.is_exporting()  # type: ignore[attr-defined]


@torch.jit.unused
def _call_type(qkv: Tensor) -> torch.dtype:
    """The type a call computes in: autocast's for floats up to 32 bits, else that of qkv; biases keep theirs."""
    device = qkv.device.type
    if qkv.dtype != torch.float64 and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return qkv.dtype


@torch.jit.unused
def _check(
    options: Tuple[str, str, str, bool, float], dims: int, window: List[int], shift: List[int], radius: List[int]
) -> None:
    geometry, pad_mode, bias_index, _, dropout = options
    checks.settings(geometry, pad_mode, bias_index, dropout, dims)
    checks.axes("window_size", window, dims, 1)
    checks.axes("shift_size", shift, dims, 0)
    checks.axes("radius", radius, dims, -1)
    if any(step >= size for step, size in zip(shift, window, strict=True)):
        checks.fail("shift_size", shift, f"less than window_size {window} on every axis")
    if geometry == "grid" and any(shift):
        checks.fail("shift_size", shift, "0 for geometry 'grid', whose windows are shifts of one another already")


@torch.jit.unused
def _check_stripe(qkv: Tensor, dims: int, absent: List[Optional[Tensor]]) -> None:
    if qkv.shape[-2] % dims:
        checks.fail("number of heads", qkv.shape[-2], f"a multiple of {dims} for geometry 'stripe'")
    for name, tensor in zip(("kv", "global_query", "carriers", "bias"), absent, strict=True):
        if tensor is not None:
            checks.fail(name, "given", "nothing for geometry 'stripe', whose groups of heads have different windows")
