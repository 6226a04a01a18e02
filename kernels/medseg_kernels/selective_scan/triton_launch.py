"""Launches the triton kernels: sizes of blocks and segments, buffers, all traversals in one grid.

Imported only when the triton backend runs. Traversals that share an output, or a tensor whose gradient is a sum, write a part
each; one kernel adds the parts up, so that every sum has one order and results are bit-identical from run to run.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple, Optional, Tuple

import torch
import triton
from torch import Tensor

from ..tape import launch
from ..traversals.tables import split, tables
from .chunked import CHECKPOINT
from .chunked_backward import Inputs
from .triton_backward import adjoint_kernel, backward_kernel
from .triton_forward import carry_kernel, forward_kernel, local_kernel, merge_kernel, sum_kernel

BLOCK = 32  # channels per program: one warp, one channel per lane
WARPS = 1
PROGRAMS = 2640  # 20 programs of one warp on each multiprocessor of a large chip


class Shape(NamedTuple):
    """How the traversals are laid out on the chip."""

    table: Tensor  # (blocks, 5) int32: first channel, channels, head, group of write, group of read
    segments: int
    span: int  # steps per segment, a multiple of CHECKPOINT


@functools.lru_cache(maxsize=64)
def block_table(channels: int, heads: int, groups_w: int, groups_r: int, device: str) -> Tensor:
    """Runs of at most BLOCK channels that share head and groups, as in cpu.cpp."""
    rows, c = [], 0
    while c < channels:
        ends = [(c // (channels // n) + 1) * (channels // n) for n in (heads, groups_w, groups_r)]
        end = min(c + BLOCK, *ends)
        rows.append([c, end - c, c * heads // channels, c * groups_w // channels, c * groups_r // channels])
        c = end
    return torch.tensor(rows, dtype=torch.int32, device=device)


def layout(planes: int, tokens: int, table: Tensor, programs: int = PROGRAMS) -> Shape:
    """Segments such that about `programs` programs run; one where blocks, samples and traversals alone are enough."""
    wanted = max(1, programs // (table.shape[0] * planes))
    span = -(-tokens // wanted)
    span = -(-span // CHECKPOINT) * CHECKPOINT
    return Shape(table, -(-tokens // span), span)


@functools.lru_cache(maxsize=64)
def _opens(traversals: str, grid: Tuple[int, ...], span: int, segments: int, device: str) -> Tensor:
    """(R, H, Q) uint8: 0 where a piece begins inside a segment."""
    begins = tables(traversals, grid, torch.device(device))[1]
    assert begins is not None
    padded = torch.nn.functional.pad(begins, (0, segments * span - begins.shape[-1]))
    return 1 - padded.view(*begins.shape[:2], segments, span).amax(-1)


def _channels_last(x: Tensor) -> Tensor:
    """Neighbouring channels side by side."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def _step(x: Tensor, axis: int) -> int:
    """Stride over traversals, 0 where they share the tensor."""
    return x.stride(axis) if x.shape[axis] > 1 else 0


class _Scan:
    """What all launches of a call share: the inputs with their strides, by the names that the kernels use."""

    def __init__(self, given: Inputs, grid: Tuple[int, ...], traversals: str, softplus: bool, merge: str) -> None:
        self.given, self.traversals, self.grid = given, traversals, grid
        self.u, self.delta, self.write, self.read = (
            _channels_last(x) for x in (given.u, given.delta, given.write, given.read)
        )
        self.rate = given.rate.transpose(1, 2).contiguous()  # (R', S, C): neighbouring lanes read neighbours
        self.z = None if given.z is None else _channels_last(given.z)
        state = given.initial_state
        self.start = None if state is None else state.transpose(2, 3).contiguous()
        self.skip, self.bias, self.factor = (
            None if x is None else x.contiguous() for x in (given.skip, given.bias, given.weights)
        )
        self.count, self.concat = len(split(traversals)), merge == "concat"
        self.scale = 1.0 / self.count if merge == "mean" else 1.0
        self.size_b, _, self.size_n, self.size_c = given.u.shape
        self.size_s, self.planes = given.rate.shape[2], self.size_b * self.count
        self.order, self.begins = tables(traversals, grid, given.u.device)
        groups = (self.write.shape[3], self.read.shape[3])
        table = block_table(self.size_c, self.order.shape[1], *groups, str(given.u.device))
        self.shape = layout(self.planes, self.size_n, table)
        self.programs = (table.shape[0], self.shape.segments, self.planes)
        self.checkpoints = -(-self.size_n // CHECKPOINT)
        self.softplus = softplus

    def new(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Fresh memory."""
        return torch.empty(shape, dtype=dtype, device=self.u.device)

    def or_u(self, x: Optional[Tensor]) -> Tensor:
        """A pointer is never null: an absent tensor is stood in for by u and not read."""
        return self.u if x is None else x

    def arguments(self, kernel: Any, **more: Any) -> dict[str, Any]:
        """A kernel's arguments out of what this call knows, and more."""
        known: dict[str, Any] = dict(
            u=self.u, delta=self.delta, write=self.write, read=self.read, rate=self.rate, skip=self.or_u(self.skip),
            z=self.or_u(self.z), bias=self.or_u(self.bias), factor=self.or_u(self.factor), start=self.or_u(self.start),
            order=self.order, begins=self.or_u(self.begins), table=self.shape.table, rate_r=_step(self.rate, 0),
            skip_r=0 if self.skip is None else _step(self.skip, 0), bias_r=0 if self.bias is None else _step(self.bias, 0),
            order_r=self.order.stride(0), z_b=0 if self.z is None else self.z.stride(0),
            z_n=0 if self.z is None else self.z.stride(1), count=self.count, size_n=self.size_n, size_c=self.size_c,
            size_s=self.size_s, span=self.shape.span, checkpoints=self.checkpoints, scale=self.scale,
            groups_w=self.write.shape[3], groups_r=self.read.shape[3], HAS_SKIP=self.skip is not None,
            HAS_Z=self.z is not None, HAS_BIAS=self.bias is not None, HAS_FACTOR=self.factor is not None,
            HAS_START=self.start is not None, HAS_BEGINS=self.begins is not None, SOFTPLUS=self.softplus, BLOCK=BLOCK,
            STATE=triton.next_power_of_2(self.size_s), STEPS=CHECKPOINT,
        )  # fmt: skip
        for name in ("u", "delta", "write", "read"):
            x = known[name]
            known |= {f"{name}_b": x.stride(0), f"{name}_r": _step(x, 1), f"{name}_n": x.stride(2)}
        known |= {"write_g": self.write.stride(3), "read_g": self.read.stride(3), **more}
        return {name: known[name] for name in kernel.arg_names} | {"num_warps": WARPS}

    def carry(self, ends: Tensor, sums: Tensor, start: Optional[Tensor], last: Tensor, backward: bool) -> Tensor:
        """What every segment starts from, (B, R, Q, S, C)."""
        starts, device = torch.empty_like(ends), str(self.u.device)
        opens = self.u
        if self.begins is not None:
            opens = _opens(self.traversals, self.grid, self.shape.span, self.shape.segments, device)
        launch(
            carry_kernel, (triton.cdiv(self.size_s * self.size_c, 32), self.planes),
            rate=self.rate, start=self.or_u(start), opens=opens, ends=ends, sums=sums, starts=starts, last=last,
            rate_r=_step(self.rate, 0), count_r=self.count, size_c=self.size_c, size_s=self.size_s,
            count=self.shape.segments, heads=self.order.shape[1], HAS_START=start is not None,
            HAS_BEGINS=self.begins is not None, BACKWARD=backward, BLOCK=32, num_warps=1,
        )  # fmt: skip
        return starts

    def segment_buffers(self) -> Tuple[Tensor, Tensor]:
        """ends (B, R, Q, S, C), sums (B, R, Q, C)."""
        shape = (self.size_b, self.count, self.shape.segments)
        return self.new(*shape, self.size_s, self.size_c), self.new(*shape, self.size_c)


def forward(
    given: Inputs, grid: Tuple[int, ...], traversals: str, softplus: bool, merge: str, save: bool
) -> Tuple[Tensor, Tensor, Tensor]:
    """Outputs, last states and kept states, as `chunked_scan`; the outputs in the dtype of `u`."""
    scan = _Scan(given, grid, traversals, softplus, merge)
    count, size_b, size_n, size_c = scan.count, scan.size_b, scan.size_n, scan.size_c
    out = scan.new(size_b, size_n, count * size_c if scan.concat else size_c, dtype=given.u.dtype)
    last = scan.new(size_b, count, size_c, scan.size_s)
    kept = scan.new(size_b, count, scan.checkpoints if save else 0, scan.size_s, size_c)
    starts, several = scan.u, scan.shape.segments > 1
    if several:
        ends, sums = scan.segment_buffers()
        launch(local_kernel, scan.programs, **scan.arguments(local_kernel, ends=ends, sums=sums))
        starts = scan.carry(ends, sums, scan.start, last, backward=False)
    merged = count > 1 and not scan.concat
    to = scan.new(count, size_b, size_n, size_c) if merged else out
    strides = dict(out_b=to.stride(1), out_r=to.stride(0), out_n=to.stride(2)) if merged else {}
    strides = strides or dict(out_b=out.stride(0), out_r=size_c, out_n=out.stride(1))
    gated = scan.z is not None
    launch(
        forward_kernel, scan.programs,
        **scan.arguments(
            forward_kernel, starts=starts, out=to, kept=kept, last=last, HAS_ENDS=several, SAVE=save, **strides,
            HAS_Z=gated and not merged,
        )
    )  # fmt: skip
    if merged:
        part = to[0].numel()
        launch(
            merge_kernel, (triton.cdiv(part, 1024),),
            to, **{name: scan.arguments(merge_kernel, parts=to, out=out, part=part)[name] for name in ("z", "z_b", "z_n")},
            out=out, part=part, size_n=size_n, size_c=size_c, count=count, HAS_Z=gated, BLOCK=1024, num_warps=4,
        )  # fmt: skip
    return out, last, kept


def _added(parts: Tensor, out: Tensor, count: int, outer: int = 1, *, outer_stride: int = 0, width: int = 0) -> Tensor:
    """out (outer, inner) = the sum of `count` parts that lie inner numbers apart; width turns (S, C) into (C, S)."""
    inner = out.numel() // outer
    rows = min(32, triton.next_power_of_2(count))
    block = 256 if rows <= 4 else 64
    launch(
        sum_kernel,
        (triton.cdiv(inner, block), outer),
        parts,
        out,
        count,
        inner,
        outer_stride,
        inner,
        width,
        FLIP=width > 0,
        ROWS=rows,
        BLOCK=block,
        num_warps=4,
    )
    return out


class _Parts:
    """Memory for the gradient of a tensor (B, R', N, ...): its own, or a part per traversal (and block) to be added up."""

    def __init__(self, scan: _Scan, x: Tensor, blocks: int = 0) -> None:
        self.x = x
        shared = scan.count > 1 and (x.dim() == 3 or x.shape[1] == 1)
        self.parts = (scan.count if shared else 1) * max(blocks, 1)
        self.dense = (self.parts > 1) or blocks > 0
        kind = x.dtype if not blocks and (not shared or x.dtype == torch.bfloat16) else torch.float32
        # a block of channels writes its own group only
        make = torch.zeros if blocks and x.shape[3] > 1 else torch.empty
        self.memory = make((self.parts, *x.shape), dtype=kind, device=x.device)
        size = x.numel()
        self.by_block = size * (scan.count if shared else 1)
        self.by_traversal = size if shared else (self.memory.stride(2) if x.dim() > 3 and x.shape[1] > 1 else 0)
        self.by_sample = self.memory.stride(1)

    def total(self) -> Tensor:
        """The gradient."""
        if self.parts == 1 and self.memory.dtype == self.x.dtype:
            return self.memory[0]
        out = torch.empty(self.x.shape, dtype=self.x.dtype, device=self.x.device)
        return _added(self.memory, out, self.parts)


def backward(
    grad_out: Tensor,
    grad_last: Tensor,
    given: Inputs,
    kept: Tensor,
    grid: Tuple[int, ...],
    traversals: str,
    softplus: bool,
    merge: str,
) -> Inputs:
    """Gradients of all inputs; None for absent ones."""
    scan = _Scan(given, grid, traversals, softplus, merge)
    grad_out, blocks = _channels_last(grad_out), scan.programs[0]
    strides = {
        "grad_out": grad_out, "grad_b": grad_out.stride(0), "grad_n": grad_out.stride(1),
        "grad_r": scan.size_c if scan.concat else 0,
    }  # fmt: skip
    ends, sums = scan.segment_buffers()
    launch(adjoint_kernel, scan.programs, **scan.arguments(adjoint_kernel, ends=ends, sums=sums, **strides))
    first = scan.new(scan.size_b, scan.count, scan.size_s, scan.size_c)
    starts = scan.carry(ends, sums, grad_last.float().transpose(2, 3).contiguous(), first, backward=True)
    grads = {name: _Parts(scan, getattr(given, name)) for name in ("u", "delta")}
    grads |= {name: _Parts(scan, getattr(given, name), blocks) for name in ("write", "read")}
    if given.z is not None:
        grads["z"] = _Parts(scan, given.z)
    states = triton.next_power_of_2(scan.size_s)
    scratch = scan.new(blocks * scan.planes * scan.shape.segments * (CHECKPOINT // 2) * states * BLOCK)
    order = (scan.count, scan.size_b, scan.shape.segments)
    to_rate = scan.new(*order, scan.size_s, scan.size_c)
    to_start = scan.new(*to_rate.shape) if scan.begins is not None else to_rate
    rows = scan.new(3, *order, scan.size_c)
    more: dict[str, Any] = {f"grad_{name}": parts.memory for name, parts in grads.items()}
    more.setdefault("grad_z", scan.u)
    more["grad_z_r"] = grads["z"].by_traversal if "z" in grads else 0
    for name in ("u", "delta", "write", "read"):
        more |= {f"grad_{name}_b": grads[name].by_sample, f"grad_{name}_r": grads[name].by_traversal}
    more |= {f"grad_{name}_k": grads[name].by_block for name in ("write", "read")}
    launch(
        backward_kernel, scan.programs,
        **scan.arguments(
            backward_kernel, kept=kept, starts=starts, scratch=scratch, grad_rate=to_rate, grad_start=to_start,
            grad_rows=rows, **strides, **more,
        )
    )  # fmt: skip
    return _totals(scan, grads, to_rate, to_start if scan.begins is not None else None, rows, first)


def _totals(
    scan: _Scan, grads: dict[str, _Parts], to_rate: Tensor, to_start: Optional[Tensor], rows: Tensor, first: Tensor
) -> Inputs:
    """Adds up the parts."""
    given, parts = scan.given, scan.size_b * scan.shape.segments

    def per_row(x: Optional[Tensor], which: int) -> Optional[Tensor]:
        if x is None:
            return None
        shared = x.shape[0] == 1
        count, outer = (parts * scan.count, 1) if shared else (parts, scan.count)
        out = scan.new(*x.shape, dtype=x.dtype)
        return _added(rows[which], out, count, outer, outer_stride=parts * scan.size_c)

    shared = given.rate.shape[0] == 1
    rate = scan.new(*given.rate.shape)
    width = scan.size_c
    _added(
        to_rate, rate, parts * scan.count if shared else parts, 1 if shared else scan.count,
        outer_stride=parts * scan.size_s * width, width=width,
    )  # fmt: skip
    state = None
    if given.initial_state is not None:
        state = first.transpose(2, 3)
        if to_start is not None:
            by_traversal = scan.new(scan.count, scan.size_b, width, scan.size_s)
            stride = scan.shape.segments * scan.size_s * width
            outer = scan.count * scan.size_b
            state = _added(to_start, by_traversal, scan.shape.segments, outer, outer_stride=stride, width=width)
            state = state.transpose(0, 1)
    return Inputs(
        grads["u"].total(), grads["delta"].total(), rate, grads["write"].total(), grads["read"].total(),
        per_row(given.skip, 0), grads["z"].total() if "z" in grads else None, per_row(given.bias, 1), state,
        per_row(given.weights, 2),
    )  # fmt: skip
