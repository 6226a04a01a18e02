"""Launches the triton kernels: sizes of blocks and segments, buffers, one launch per traversal in a fixed order.

Imported only when the triton backend runs. Traversals that share an output are launched one after the other, each adding
to what the earlier ones left, so that every sum has one order and results are bit-identical from run to run.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple, Optional, Tuple

import torch
import triton
from torch import Tensor

from ..traversals.orders import Traversal
from ..traversals.tables import split, tables
from .chunked import CHECKPOINT
from .chunked_backward import Inputs
from .reference import pick, pick_row
from .triton_backward import adjoint_kernel, backward_kernel
from .triton_forward import carry_kernel, forward_kernel, local_kernel

BLOCK = 32  # channels per program: one warp, one channel per lane
WARPS = 1
SUB = 2  # steps that backward_kernel unrolls by hand, their states in registers
PROGRAMS = 2048  # about 16 programs of one warp on each multiprocessor of a large chip


class Shape(NamedTuple):
    """How one traversal is laid out on the chip."""

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


def layout(batch: int, tokens: int, table: Tensor, programs: int = PROGRAMS) -> Shape:
    """Segments such that about `programs` programs run; one where blocks and samples alone are enough."""
    wanted = max(1, programs // (table.shape[0] * batch))
    span = -(-tokens // wanted)
    span = -(-span // CHECKPOINT) * CHECKPOINT
    return Shape(table, -(-tokens // span), span)


def _closed(text: str, grid: Tuple[int, ...]) -> dict[str, Any]:
    """Keyword arguments of a traversal's integer arithmetic."""
    traversal = Traversal.parse(text)
    form = traversal.closed_form(grid) if len(traversal.heads) == 1 else None
    if form is None:
        return dict(n1=1, n2=1, s0=0, s1=0, s2=0, CLOSED=False, SNAKE=False, REVERSED=False)
    return dict(
        n1=form.n1, n2=form.n2, s0=form.s0, s1=form.s1, s2=form.s2, CLOSED=True, SNAKE=form.snake, REVERSED=form.reversed
    )  # fmt: skip


class _Traversal:
    """What one traversal reads: views of the inputs, its tables, and the keyword arguments they become."""

    def __init__(
        self, given: Inputs, r: int, grid: Tuple[int, ...], traversals: str, softplus: bool, merge: str
    ) -> None:
        names = split(traversals)
        self.u, self.delta = _channels_last(pick(given.u, r)), _channels_last(pick(given.delta, r))
        self.write, self.read = _channels_last(pick(given.write, r)), _channels_last(pick(given.read, r))
        self.rate = pick_row(given.rate, r).contiguous()
        self.skip = None if given.skip is None else pick_row(given.skip, r).contiguous()
        self.bias = None if given.bias is None else pick_row(given.bias, r).contiguous()
        self.factor = None if given.weights is None else given.weights[r].contiguous()
        self.start = None if given.initial_state is None else given.initial_state[:, r].contiguous()
        self.z = None if given.z is None else _channels_last(given.z)
        order, begins = tables(traversals, grid, self.u.device)
        self.order, self.begins = order[r], None if begins is None else begins[r]
        # traversals without heads fill every row of the table alike, so their rows serve any block
        self.arithmetic = _closed(names[r], grid)
        self.softplus, self.scale = softplus, 1.0 / len(names) if merge == "mean" else 1.0
        self.size_b, self.size_n, self.size_c = self.u.shape
        self.size_s = self.rate.shape[1]
        groups = (self.write.shape[2], self.read.shape[2])
        table = block_table(self.size_c, order.shape[1], *groups, str(self.u.device))
        self.shape = layout(self.size_b, self.size_n, table)
        self.grid = (table.shape[0], self.shape.segments, self.size_b)

    def sizes(self) -> dict[str, Any]:
        """Sizes and traversal, for every kernel that walks tokens."""
        return dict(
            self.arithmetic, size_n=self.size_n, size_c=self.size_c, size_s=self.size_s, span=self.shape.span,
            SOFTPLUS=self.softplus, HAS_BIAS=self.bias is not None, HAS_BEGINS=self.begins is not None, BLOCK=BLOCK,
            STATE=triton.next_power_of_2(self.size_s), num_warps=WARPS,
            delta=self.delta, rate=self.rate, bias=self.or_u(self.bias), order=self.order, begins=self.or_u(self.begins),
            table=self.shape.table, delta_b=self.delta.stride(0), delta_n=self.delta.stride(1),
        )  # fmt: skip

    def inputs(self) -> dict[str, Any]:
        """u and write."""
        return dict(
            u=self.u, write=self.write, start=self.or_u(self.start), u_b=self.u.stride(0), u_n=self.u.stride(1),
            write_b=self.write.stride(0), write_n=self.write.stride(1), write_g=self.write.stride(2),
            HAS_START=self.start is not None,
        )  # fmt: skip

    def outputs(self) -> dict[str, Any]:
        """read, gate and merge."""
        return dict(
            read=self.read, z=self.or_u(self.z), factor=self.or_u(self.factor), scale=self.scale,
            read_b=self.read.stride(0), read_n=self.read.stride(1), read_g=self.read.stride(2),
            z_b=0 if self.z is None else self.z.stride(0), z_n=0 if self.z is None else self.z.stride(1),
            HAS_Z=self.z is not None, HAS_FACTOR=self.factor is not None,
        )  # fmt: skip

    def or_u(self, x: Optional[Tensor]) -> Tensor:
        """A pointer is never null: an absent tensor is stood in for by u and not read."""
        return self.u if x is None else x

    def carry(self, ends: Tensor, sums: Tensor, start: Optional[Tensor], last: Tensor, backward: bool) -> None:
        """Carry what segments yield through all of them, in place."""
        opens = self.begins
        if self.begins is not None:
            padded = torch.nn.functional.pad(self.begins, (0, self.shape.segments * self.shape.span - self.size_n))
            opens = 1 - padded.view(padded.shape[0], self.shape.segments, -1).amax(-1)
        carry_kernel[(self.grid[0], self.size_b)](
            rate=self.rate, start=self.or_u(start), opens=self.or_u(opens), table=self.shape.table, ends=ends, sums=sums,
            last=last, size_c=self.size_c, size_s=self.size_s, count=self.shape.segments, last_b=last.stride(0),
            HAS_START=start is not None, HAS_BEGINS=self.begins is not None, BACKWARD=backward, BLOCK=BLOCK,
            STATE=triton.next_power_of_2(self.size_s), num_warps=WARPS,
        )  # fmt: skip

    def segment_buffers(self) -> Tuple[Tensor, Tensor]:
        """ends (B, Q, S, C), sums (B, Q, C)."""
        shape = (self.size_b, self.shape.segments)
        new = functools.partial(torch.empty, dtype=torch.float32, device=self.u.device)
        return new(*shape, self.size_s, self.size_c), new(*shape, self.size_c)


def _channels_last(x: Tensor) -> Tensor:
    """Neighbouring channels side by side."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def forward(
    given: Inputs, grid: Tuple[int, ...], traversals: str, softplus: bool, merge: str, save: bool
) -> Tuple[Tensor, Tensor, Tensor]:
    """Outputs, last states and kept states, as `chunked_scan`; the outputs in the dtype of `u`."""
    count = len(split(traversals))
    size_b, _, size_n, size_c = given.u.shape
    size_s, concat = given.rate.shape[2], merge == "concat"
    new = functools.partial(torch.empty, dtype=torch.float32, device=given.u.device)
    out = new(size_b, size_n, count * size_c if concat else size_c, dtype=given.u.dtype)
    acc = new(size_b, size_n, size_c) if count > 1 and not concat else out
    last = new(size_b, count, size_c, size_s)
    kept = new(size_b, count, -(-size_n // CHECKPOINT) if save else 0, size_s, size_c)
    for r in range(count):
        one = _Traversal(given, r, grid, traversals, softplus, merge)
        ends, several = one.u, one.shape.segments > 1
        if several:
            ends, sums = one.segment_buffers()
            local_kernel[one.grid](ends=ends, sums=sums, **one.sizes(), **one.inputs())
            one.carry(ends, sums, one.start, last, backward=False)
        part = out[..., r * size_c : (r + 1) * size_c] if concat else out
        forward_kernel[one.grid](
            ends=ends, acc=acc, out=part, kept=kept[:, r], last=last[:, r], skip=one.or_u(one.skip), out_b=part.stride(0),
            out_n=part.stride(1), kept_b=kept.stride(0), last_b=last.stride(0), HAS_SKIP=one.skip is not None,
            HAS_ENDS=several, SAVE=save, ADD=r > 0 and not concat, FINAL=concat or r == count - 1, STEPS=CHECKPOINT,
            **one.sizes(), **one.inputs(), **one.outputs(),
        )  # fmt: skip
    return out, last, kept


class _Grads:
    """Gradient buffers: those that traversals share are float32 sums, the others have the dtype of their input."""

    def __init__(self, given: Inputs, count: int) -> None:
        self.given, self.count = given, count

        def like(x: Tensor) -> Tensor:
            shared = count > 1 and (x.dim() == 3 or x.shape[1] == 1)
            return torch.empty(x.shape, dtype=torch.float32 if shared else x.dtype, device=x.device)

        self.u, self.delta = like(given.u), like(given.delta)
        self.z = None if given.z is None else like(given.z)
        self.write: list[Tensor] = []
        self.read: list[Tensor] = []
        self.rows: list[Tensor] = []
        self.rate: list[Tensor] = []
        self.start: list[Tensor] = []

    def partial(self, into: list[Tensor], x: Tensor, blocks: int, r: int) -> Tensor:
        """(blocks, B, N, G, S) for traversal r; the same buffer again where traversals share the tensor."""
        if r == 0 or x.shape[1] > 1:
            shape = (blocks, x.shape[0], *x.shape[2:])
            make = torch.empty if x.shape[3] == 1 else torch.zeros  # a block writes its own group only
            into.append(make(shape, dtype=torch.float32, device=x.device))
        return into[-1]

    def finish(self) -> Inputs:
        """Add up the partial sums."""
        given = self.given

        def parameter(parts: list[Tensor], x: Optional[Tensor]) -> Optional[Tensor]:
            if x is None:
                return None
            whole = torch.stack(parts)
            return whole if x.shape[0] > 1 else whole.sum(0, keepdim=True)

        rows = [[row[i] for row in self.rows] for i in range(3)]
        return Inputs(
            self.u,
            self.delta,
            parameter(self.rate, given.rate),  # type: ignore[arg-type]
            torch.stack([part.sum(0) for part in self.write], 1),
            torch.stack([part.sum(0) for part in self.read], 1),
            parameter(rows[0], given.skip),
            self.z,
            parameter(rows[1], given.bias),
            torch.stack(self.start, 1) if given.initial_state is not None else None,
            torch.stack(rows[2]) if given.weights is not None else None,
        )


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
    count, grads = len(split(traversals)), _Grads(given, len(split(traversals)))
    grad_out, size_c = _channels_last(grad_out), given.u.shape[3]
    for r in range(count):
        one = _Traversal(given, r, grid, traversals, softplus, merge)
        part = grad_out[..., r * size_c : (r + 1) * size_c] if merge == "concat" else grad_out
        _backward_one(one, grads, part, grad_last[:, r].float().contiguous(), kept, r)
    return grads.finish()


def _backward_one(one: _Traversal, grads: _Grads, grad_out: Tensor, grad_last: Tensor, kept: Tensor, r: int) -> None:
    """One traversal: fills its part of `grads`."""
    given, new = grads.given, functools.partial(torch.empty, dtype=torch.float32, device=one.u.device)
    ends, sums = one.segment_buffers()
    strides = dict(grad_out=grad_out, grad_b=grad_out.stride(0), grad_n=grad_out.stride(1))
    adjoint_kernel[one.grid](ends=ends, sums=sums, **strides, **one.sizes(), **one.outputs())
    first = new(one.size_b, one.size_c, one.size_s)
    one.carry(ends, sums, grad_last, first, backward=True)
    blocks, states = one.grid[0], triton.next_power_of_2(one.size_s)
    scratch = new(blocks * one.size_b * one.shape.segments * (CHECKPOINT // SUB) * states * BLOCK)
    to_rate, to_start = (new(*ends.shape) for _ in range(2))
    rows = new(3, one.size_b, one.shape.segments, one.size_c)
    grad_u, grad_delta = pick(grads.u, r), pick(grads.delta, r)
    backward_kernel[one.grid](
        kept=kept[:, r], kept_b=kept.stride(0), ends=ends, scratch=scratch, skip=one.or_u(one.skip),
        HAS_SKIP=one.skip is not None, grad_u=grad_u, grad_delta=grad_delta, grad_u_b=grad_u.stride(0),
        grad_delta_b=grad_delta.stride(0),
        grad_z=one.or_u(grads.z), grad_write=grads.partial(grads.write, given.write, blocks, r),
        grad_read=grads.partial(grads.read, given.read, blocks, r), grad_rate=to_rate, grad_start=to_start, grad_rows=rows,
        groups_w=one.write.shape[2], groups_r=one.read.shape[2], ADD_Z=r > 0, STEPS=CHECKPOINT, SUB=SUB,
        ADD_U=r > 0 and given.u.shape[1] == 1, ADD_DELTA=r > 0 and given.delta.shape[1] == 1,
        ADD_WRITE=r > 0 and given.write.shape[1] == 1, ADD_READ=r > 0 and given.read.shape[1] == 1,
        **strides, **one.sizes(), **one.inputs(), **one.outputs(),
    )  # fmt: skip
    grads.rate.append(to_rate.sum((0, 1)).T)
    grads.rows.append(rows.sum((1, 2)))
    grads.start.append(first if one.begins is None else to_start.sum(1).transpose(1, 2))
