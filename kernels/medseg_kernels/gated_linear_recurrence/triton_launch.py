"""Launching the triton kernels: tables of chunks, workspaces, block sizes, segments."""

from __future__ import annotations

import functools
from typing import Any, List, Optional, Tuple

import torch
import triton
from torch import Tensor

from ..tape import launch
from . import segments, triton_backward, triton_forward
from .chunked_backward import Gradients
from .layout import chunk_table


@functools.cache
def workers(device: str) -> int:
    """Programs that fill the device: two per multiprocessor; one where kernels are interpreted."""
    if not device.startswith("cuda"):
        return 1
    return 2 * torch.cuda.get_device_properties(device).multi_processor_count


@functools.lru_cache(maxsize=64)
def tables(bounds: Tuple[int, ...], chunk: int, device: str) -> Tuple[Tensor, Tensor, Tensor, int]:
    """First step and length of each chunk, first chunk of each piece (and the end), int32; number of chunks."""
    starts, lengths, owners = chunk_table(list(bounds), chunk)
    firsts = [0] * len(bounds)
    for owner in owners:
        firsts[owner + 1] += 1
    for w in range(1, len(bounds)):
        firsts[w] += firsts[w - 1]
    starts_t, lengths_t, firsts_t = (
        torch.tensor(x, dtype=torch.int32, device=device) for x in (starts, lengths, firsts)
    )
    return starts_t, lengths_t, firsts_t, len(starts)


def warps_of(kernel: Any, *, wide: bool, hip: bool, **given: Any) -> int:
    """Warps of a kernel, by what the cost model (tests/kernels/model) says at K = V = 64; a little spilling is no harm.

    Args:
        kernel: to be launched.
        wide: float32, whose tiles take twice the registers.
        hip: for AMD's GPUs.
        given: its arguments.
    """
    if hip:
        return 4
    if kernel in (triton_forward.solve_kernel, triton_forward.decay_kernel):
        return 4 if wide else 1
    if kernel is triton_forward.transfer_kernel:
        return 1
    if wide or (kernel is triton_forward.state_kernel and given["STORE"]):
        return 8
    return 1 if kernel is triton_forward.output_kernel and given["ADJOINT"] else 4


def stages(is_gradient: bool) -> int:
    """Stages of pipelined loops: the gradient kernel holds too many tiles to load the next ones ahead."""
    return 1 if is_gradient else 2


def block_of(channels: int) -> int:
    """Power of two that holds the channels, at least the 16 that matrix units want."""
    return max(16, triton.next_power_of_2(channels))


@functools.cache
def roomy(device: str) -> bool:
    """Whether tiles of 64 steps fit without spilling: not on NVIDIA's generation 8, whose products hold more in registers."""
    if not device.startswith("cuda") or torch.version.hip is not None:
        return True
    return torch.cuda.get_device_capability(device)[0] >= 9


def chunk_of(size_k: int, *, simple: bool, room: bool = True) -> int:
    """Steps per chunk: 64, and 32 where tiles of 64 would spill: a decay per channel, the delta rule, long keys."""
    return 64 if simple and room and size_k <= 64 else 32


def value_block(size_k: int, size_v: int) -> int:
    """Value channels per program: 64 for short keys, fewer where the state would spill or most channels would be padding."""
    widest = 64 if size_k <= 64 else 32
    return min(widest if (size_v - 1) % 64 >= 32 else 32, block_of(size_v))


class Call:
    """Arguments common to all kernels of one forward or backward, by the names the kernels use."""

    def __init__(
        self, q: Tensor, k: Tensor, v: Tensor, g: Optional[Tensor], beta: Optional[Tensor], scale: float,
        order: Optional[Tensor], bounds: List[int], delta: bool,
    ) -> None:  # fmt: skip
        self.q, self.k, self.v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
        self.size_b, self.size_n, self.size_h, self.size_k = q.shape
        self.size_v, self.scale, self.bounds, self.delta = v.shape[3], scale, bounds, delta
        self.beta, self.g = beta, g
        self.decay = 0 if g is None else {1: 1, 3: 2, 4: 3}[g.dim()]
        self.write = 0 if beta is None else 2 if delta else 1
        self.chunk, self.device = (
            chunk_of(self.size_k, simple=self.decay < 3 and not delta, room=roomy(str(q.device))),
            q.device,
        )
        self.order = order
        self.heads_per_row = 1 if order is None else self.size_h // order.shape[0]
        self.starts, self.counts, self.piece_chunks, self.chunks = tables(tuple(bounds), self.chunk, str(q.device))
        self.size_w = len(bounds) - 1
        self.cum = self.cumulative()
        self.erase: Optional[Tensor] = None
        self.target: Optional[Tensor] = None
        if delta:
            self.erase = self.workspace(self.chunk, self.size_k)
            self.target = self.workspace(self.chunk, self.size_v)
            self.launch(triton_forward.solve_kernel, (self.chunks, self.heads))

    @property
    def heads(self) -> int:
        """Samples times heads."""
        return self.size_b * self.size_h

    def workspace(self, *shape: int, dtype: Optional[torch.dtype] = None) -> Tensor:
        """Uninitialised memory per head and chunk; operands of matrix products have the inputs' dtype."""
        return torch.empty(self.heads, self.chunks, *shape, dtype=dtype or self.q.dtype, device=self.device)

    def cumulative(self) -> Optional[Tensor]:
        """Cumulative log2 decay per chunk and step, or the constant per head."""
        if self.g is None:
            return None
        if self.g.dim() == 1:
            return self.g.float().contiguous()  # natural logarithms: load_decay brings them to log2
        if self.g.dim() == 4 and self.g.stride(3) != 1:
            self.g = self.g.contiguous()
        self.cum = self.workspace(self.chunk, *self.g.shape[3:], dtype=torch.float32)
        self.launch(triton_forward.decay_kernel, (self.chunks, self.heads), g=self.g)
        return self.cum

    def launch(self, kernel: Any, grid: Tuple[int, ...], **given: Any) -> None:
        """Run a kernel with this call's arguments; `given` adds to them or replaces them.

        Chunks and pieces are the grid's first axis, the only one that may exceed 65535.
        A tensor's strides go under the first letter of its name; absent tensors become q, which is then not read.
        """
        if 0 in grid:
            return
        known: dict[str, Any] = {**self.__dict__, **given}
        known |= {"C": self.chunk, "BK": block_of(self.size_k), "DECAY": self.decay, "WRITE": self.write}
        known |= {"HAS_ORDER": self.order is not None, "PRECISION": "ieee"}
        known.setdefault("BV", value_block(self.size_k, known["size_v"]))
        for prefix, name in {"q": "q", "k": "k", "v": "v", "g": "g", "o": "d_out", "beta": "beta"}.items():
            strides = (0, 0, 0) if not isinstance(known.get(name), Tensor) else known[name].stride()[:3]
            known |= {f"{prefix}_{axis}": stride for axis, stride in zip("bnh", strides, strict=False)}
        arguments = {name: known.get(name) for name in kernel.arg_names}
        filled = {name: self.q if value is None else value for name, value in arguments.items()}
        warps = warps_of(kernel, wide=self.q.dtype.itemsize > 2, hip=torch.version.hip is not None, **given)
        launch(kernel, grid, **filled, num_warps=warps, num_stages=stages(kernel is triton_backward.gradient_kernel))

    def walk(
        self, start: Optional[Tensor], *, store: bool, values: bool = True
    ) -> Tuple[Tensor, Optional[Tensor], Optional[Tensor]]:
        """Last states of all pieces; with `store` also the states before the chunks and, for the delta rule, what is written."""
        size_v = self.size_v if values or start is None else start.shape[3]
        block = value_block(self.size_k, size_v)
        final = torch.empty(self.size_b * self.size_w, self.size_h, self.size_k, size_v, device=self.device)
        states = self.workspace(self.size_k, size_v) if store else None
        written = self.workspace(self.chunk, size_v) if store and self.delta else None
        self.launch(
            triton_forward.state_kernel, (self.size_w, triton.cdiv(size_v, block), self.heads),
            start=start, final=final, states=states, written=written, size_v=size_v, BV=block,
            HAS_START=start is not None, STORE=store, HAS_VALUES=values,
        )  # fmt: skip
        return final, states, written


def split(pieces: List[int], q: Tensor, v: Tensor) -> Tuple[List[int], List[int]]:
    """Segments that fill the device."""
    blocks = triton.cdiv(v.shape[3], value_block(q.shape[3], v.shape[3]))
    present = q.shape[0] * q.shape[2] * blocks * (len(pieces) - 1)
    return segments.split_pieces(pieces, workers(str(q.device)) / max(present, 1), 64)


def starts_of_segments(call: Call, owners: List[int], state: Tensor) -> Tuple[Tensor, Optional[Tensor]]:
    """State before every segment, and the segments' transfers (None where every piece is one segment)."""
    if call.size_w == owners[-1] + 1:
        return state, None
    ends = call.walk(None, store=False)[0]
    count = call.size_b * call.size_w
    if call.delta:
        start = segments.probe(call.size_k, count, call.size_h, True, call.device)
        transfers = call.walk(start, store=False, values=False)[0]
    else:
        transfers = torch.empty(count, call.size_h, call.size_k, 1, device=call.device)
        call.launch(triton_forward.transfer_kernel, (call.size_w, call.heads), transfers=transfers)
    return chain(call, state, ends, transfers, owners), transfers


@functools.lru_cache(maxsize=64)
def edges(owners: Tuple[int, ...], device: str) -> Tensor:
    """First segment of each piece, and the end, int32."""
    firsts = [s for s in range(len(owners)) if s == 0 or owners[s] != owners[s - 1]]
    return torch.tensor([*firsts, len(owners)], dtype=torch.int32, device=device)


def chain(
    call: Call, first: Tensor, ends: Tensor, transfers: Tensor, owners: List[int], *, backward: bool = False
) -> Tensor:
    """As `segments.chain`, in one kernel."""
    before, block = torch.empty_like(ends), min(16, block_of(call.size_v))
    pieces = owners[-1] + 1
    grid = (call.size_b * pieces, triton.cdiv(call.size_v, block), call.size_h)
    launch(
        triton_forward.chain_kernel, grid,
        first, ends, transfers, before, edges(tuple(owners), str(call.device)), call.size_h, call.size_k, call.size_v,
        len(owners), pieces, DELTA=call.delta, BACKWARD=backward, BK=block_of(call.size_k), BV=block,
        num_warps=8 if call.delta else 1,
    )  # fmt: skip
    return before


def zeros_or(state: Optional[Tensor], q: Tensor, v: Tensor, count: int) -> Tensor:
    """The initial states in float32."""
    if state is not None:
        return state.float().contiguous()
    return _zeros((q.shape[0] * count, q.shape[2], q.shape[3], v.shape[3]), str(q.device))


@functools.lru_cache(maxsize=16)
def _zeros(shape: Tuple[int, ...], device: str) -> Tensor:
    """Read by kernels only."""
    return torch.zeros(shape, device=device)


def forward(
    q: Tensor, k: Tensor, v: Tensor, g: Optional[Tensor], beta: Optional[Tensor], scale: float,
    state: Optional[Tensor], order: Optional[Tensor], pieces: Optional[List[int]], delta: bool,
) -> Tuple[Tensor, Tensor]:  # fmt: skip
    """Same as `chunkwise.chunkwise`."""
    pieces = [0, q.shape[1]] if pieces is None else pieces
    bounds, owners = split(pieces, q, v)
    call = Call(q, k, v, g, beta, scale, order, bounds, delta)
    start, _ = starts_of_segments(call, owners, zeros_or(state, q, v, len(pieces) - 1))
    final, states, written = call.walk(start, store=True)
    out = torch.empty(v.shape, dtype=v.dtype, device=v.device)
    grid = (call.chunks, triton.cdiv(call.size_v, value_block(call.size_k, call.size_v)), call.heads)
    call.launch(triton_forward.output_kernel, grid, states=states, written=written, out=out, ADJOINT=False)
    return out, segments.of_each_piece(final, owners, last=True)


def backward(
    d_out: Tensor, d_final: Tensor, q: Tensor, k: Tensor, v: Tensor, g: Optional[Tensor], beta: Optional[Tensor],
    scale: float, state: Optional[Tensor], order: Optional[Tensor], pieces: Optional[List[int]], delta: bool,
) -> Gradients:  # fmt: skip
    """Same as `chunkwise_backward.chunkwise_backward`."""
    pieces = [0, q.shape[1]] if pieces is None else pieces
    bounds, owners = split(pieces, q, v)
    call = Call(q, k, v, g, beta, scale, order, bounds, delta)
    d_out = d_out if d_out.stride(-1) == 1 else d_out.contiguous()
    start, transfers = starts_of_segments(call, owners, zeros_or(state, q, v, len(pieces) - 1))
    _, states, written = call.walk(start, store=True)
    block = value_block(call.size_k, call.size_v)
    value_blocks = triton.cdiv(call.size_v, block)
    d_written = None
    if delta:
        d_written = call.workspace(call.chunk, call.size_v)
        grid = (call.chunks, value_blocks, call.heads)
        call.launch(triton_forward.output_kernel, grid, v=d_out, out=d_written, ADJOINT=True)

    def walk_back(after: Optional[Tensor], store: bool) -> Tuple[Tensor, Optional[Tensor]]:
        d_start = torch.empty(call.size_b * call.size_w, call.size_h, call.size_k, call.size_v, device=q.device)
        d_states = call.workspace(call.size_k, call.size_v) if store else None
        call.launch(
            triton_backward.state_backward_kernel, (call.size_w, value_blocks, call.heads), d_out=d_out,
            d_final=after, d_states=d_states, d_written=d_written, d_start=d_start, STORE=store, HAS_FINAL=after is not None,
        )  # fmt: skip
        return d_start, d_states

    after = d_final.float().contiguous()
    if transfers is not None:
        after = chain(call, after, walk_back(None, False)[0], transfers, owners, backward=True)
    d_start, d_states = walk_back(after, True)
    grads = _gradients(call, d_out, states, d_states, written, d_written)
    return grads._replace(initial_state=segments.of_each_piece(d_start, owners, last=False))


def _gradients(
    call: Call,
    d_out: Tensor,
    states: Optional[Tensor],
    d_states: Optional[Tensor],
    written: Optional[Tensor],
    d_written: Optional[Tensor],
) -> Gradients:
    """The kernels that write gradients of tokens, given the states before and the adjoints after all chunks."""
    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (call.q, call.k, call.v))
    per_head = call.q.shape[:3]
    d_beta = None if call.beta is None else torch.empty(per_head, dtype=call.beta.dtype, device=call.device)
    dg = None
    if call.g is not None:  # a constant per head is summed afterwards
        kind = torch.float32 if call.g.dim() == 1 else call.g.dtype
        dg = torch.empty(call.g.shape if call.g.dim() == 4 else per_head, dtype=kind, device=call.device)
    saved = {"states": states, "d_states": d_states, "written": written, "d_written": d_written}
    grid = (call.chunks, call.heads)
    if call.delta:
        call.launch(triton_backward.solve_backward_kernel, grid, dv=dv, d_beta=d_beta, **saved)
    call.launch(triton_backward.gradient_kernel, grid, d_out=d_out, dq=dq, dk=dk, dv=dv, dg=dg, d_beta=d_beta, **saved)
    if dg is not None and call.g is not None and call.g.dim() == 1:
        dg = dg.sum((0, 1), dtype=torch.float64).to(call.g.dtype)
    return Gradients(dq, dk, dv, dg, d_beta, dq)
