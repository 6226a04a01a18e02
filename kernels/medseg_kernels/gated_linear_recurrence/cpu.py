"""The compiled CPU form behind the op: cpu.cpp through ctypes. float32 inside, 16-bit tensors are converted once."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import List, Optional, Tuple

import torch
from torch import Tensor

from .. import cpu_build
from . import segments
from .chunked import start_states
from .chunked_backward import Gradients
from .layout import CHUNK

SOURCE = Path(__file__).with_name("cpu.cpp")
POINTERS = ("q", "k", "v", "g", "beta", "state", "d_out", "d_final")
RESULTS = ("out", "final_state", "dq", "dk", "dv", "dg", "dbeta", "d_state")
STRIDES = ("q", "k", "v", "g", "beta", "d_out")
DECAY = {1: 1, 3: 1, 4: 2}  # dimensions of g -> code in cpu.cpp; a constant is a decay per head with strides 0


class Problem(ctypes.Structure):
    """The struct of the same name in cpu.cpp."""

    _fields_ = (
        [(name, ctypes.c_void_p) for name in (*POINTERS, *RESULTS, "order", "pieces")]
        + [(f"size_{letter}", ctypes.c_int64) for letter in "bnhkvwr"]
        + [(f"{name}_stride", ctypes.c_int64 * 3) for name in STRIDES]
        + [("scale", ctypes.c_double)]
        + [(name, ctypes.c_int64) for name in ("decay", "write", "threads")]
    )


class Call:
    """One call's tensors, kept alive as long as the struct that points into them."""

    def __init__(
        self, q: Tensor, k: Tensor, v: Tensor, g: Optional[Tensor], beta: Optional[Tensor], scale: float,
        state: Optional[Tensor], order: Optional[Tensor], pieces: List[int], delta: bool,
    ) -> None:  # fmt: skip
        size_b, size_n, size_h, size_k = q.shape
        self.tensors: dict[str, Tensor] = {}
        self.problem = Problem()
        self.bind(pieces=torch.tensor(pieces, dtype=torch.int64))
        if g is not None and g.dim() == 1:
            g = g.float().view(1, 1, size_h).expand(size_b, size_n, size_h)
        for name, x in {"q": q, "k": k, "v": v, "g": g, "beta": beta}.items():
            if x is not None:
                self.bind_strided(name, x)
        if state is not None:
            self.bind(state=state.float().contiguous())
        if order is not None:
            self.bind(order=order.contiguous())
        sizes = {"b": size_b, "n": size_n, "h": size_h, "k": size_k, "v": v.shape[3], "w": len(pieces) - 1}
        for letter, size in sizes.items():
            setattr(self.problem, f"size_{letter}", size)
        self.problem.size_r = 1 if order is None else order.shape[0]
        self.problem.scale = scale
        self.problem.decay = 0 if g is None else DECAY[g.dim()]
        self.problem.write = 0 if beta is None else 2 if delta else 1
        self.problem.threads = torch.get_num_threads()

    def bind(self, **tensors: Tensor) -> None:
        """Point the struct's fields at tensors."""
        for name, x in tensors.items():
            self.tensors[name] = x
            setattr(self.problem, name, x.data_ptr())

    def bind_strided(self, name: str, x: Tensor) -> None:
        """The same for (B, N, H) or (B, N, H, E) in any layout whose channels lie next to each other."""
        x = x.float()
        if x.dim() == 4 and x.stride(3) != 1:
            x = x.contiguous()
        self.bind(**{name: x})
        getattr(self.problem, f"{name}_stride")[:] = x.stride()[:3]

    def run(self, function: str) -> None:
        """Call into the library.

        Raises:
            MemoryError: the states did not fit.
        """
        if getattr(cpu_build.load(SOURCE), function)(ctypes.byref(self.problem)) != 0:
            raise MemoryError("gated_linear_recurrence: no memory for the states between chunks")

    def states(self) -> Tensor:
        """Uninitialised states of all pieces."""
        p = self.problem
        return torch.empty(p.size_b * p.size_w, p.size_h, p.size_k, p.size_v, dtype=torch.float32)

    def run_forward(self, out: Optional[Tensor]) -> Tensor:
        """Last states of all pieces; outputs too where there is a tensor for them."""
        final = self.states()
        self.bind(final_state=final)
        if out is not None:
            self.bind(out=out)
        self.run("recurrence_forward")
        return final

    def run_backward(self, d_out: Tensor, d_final: Tensor) -> Tensor:
        """Adjoints of the initial states of all pieces; other gradients too where tensors for them were bound."""
        d_state = self.states()
        self.bind_strided("d_out", d_out)
        self.bind(d_final=d_final.float().contiguous(), d_state=d_state)
        self.run("recurrence_backward")
        return d_state


def forward(
    q: Tensor, k: Tensor, v: Tensor, g: Optional[Tensor], beta: Optional[Tensor], scale: float,
    state: Optional[Tensor], order: Optional[Tensor], pieces: Optional[List[int]], delta: bool,
) -> Tuple[Tensor, Tensor]:  # fmt: skip
    """Same as `chunkwise.chunkwise`."""
    pieces = [0, q.shape[1]] if pieces is None else pieces
    bounds, owners = split(pieces, q)
    starts = state
    if len(bounds) > len(pieces):
        starts, _ = starts_of_segments(q, k, v, g, beta, scale, state, order, bounds, owners, delta)
    call = Call(q, k, v, g, beta, scale, starts, order, bounds, delta)
    out = torch.empty(v.shape, dtype=torch.float32)
    final = call.run_forward(out)
    return out.to(v.dtype), segments.of_each_piece(final, owners, last=True)


def split(pieces: List[int], q: Tensor) -> Tuple[List[int], List[int]]:
    """Segments that occupy all threads; walking twice pays from about three times as many threads as heads on."""
    present = q.shape[0] * q.shape[2] * (len(pieces) - 1)
    threads = torch.get_num_threads()
    return segments.split_pieces(pieces, threads / max(present, 1) if threads >= 3 * present else 1, CHUNK)


def starts_of_segments(
    q: Tensor, k: Tensor, v: Tensor, g: Optional[Tensor], beta: Optional[Tensor], scale: float, state: Optional[Tensor],
    order: Optional[Tensor], bounds: List[int], owners: List[int], delta: bool,
) -> Tuple[Tensor, Tensor]:  # fmt: skip
    """State before every segment, and the segments' transfers."""
    first = start_states(state, q, v, owners[-1] + 1).float()
    ends = Call(q, k, v, g, beta, scale, None, order, bounds, delta).run_forward(None)
    probe = segments.probe(q.shape[3], ends.shape[0], q.shape[2], delta, q.device)
    silent = torch.zeros(1, 1, 1, 1).expand(
        *q.shape[:3], probe.shape[3]
    )  # nothing is written: what is left is the transfer
    transfers = Call(q, k, silent, g, beta, scale, probe, order, bounds, delta).run_forward(None)
    return segments.chain(first, ends, transfers, owners), transfers


def backward(
    d_out: Tensor, d_final: Tensor, q: Tensor, k: Tensor, v: Tensor, g: Optional[Tensor], beta: Optional[Tensor],
    scale: float, state: Optional[Tensor], order: Optional[Tensor], pieces: Optional[List[int]], delta: bool,
) -> Gradients:  # fmt: skip
    """Same as `chunkwise_backward.chunkwise_backward`."""
    pieces = [0, q.shape[1]] if pieces is None else pieces
    bounds, owners = split(pieces, q)
    starts, after = state, d_final
    if len(bounds) > len(pieces):
        starts, transfers = starts_of_segments(q, k, v, g, beta, scale, state, order, bounds, owners, delta)
        call = Call(q, k, v, g, beta, scale, None, order, bounds, delta)
        d_ends = call.run_backward(d_out, torch.zeros_like(starts))
        after = segments.chain(d_final.float(), d_ends, transfers, owners, backward=True)
    call = Call(q, k, v, g, beta, scale, starts, order, bounds, delta)
    for name, x in {"dq": q, "dk": k, "dv": v}.items():
        call.bind(**{name: torch.empty(x.shape, dtype=torch.float32)})
    if beta is not None:
        call.bind(dbeta=torch.empty(beta.shape, dtype=torch.float32))
    if g is not None:
        call.bind(dg=torch.empty(g.shape if g.dim() == 4 else q.shape[:3], dtype=torch.float32))
    d_start = call.run_backward(d_out, after)
    result = call.tensors
    d_g = result.get("dg")
    if d_g is not None and g is not None:
        d_g = (d_g.sum((0, 1), dtype=torch.float64) if g.dim() == 1 else d_g).to(g.dtype)
    return Gradients(
        result["dq"].to(q.dtype),
        result["dk"].to(k.dtype),
        result["dv"].to(v.dtype),
        d_g,
        None if beta is None else result["dbeta"].to(beta.dtype),
        segments.of_each_piece(d_start, owners, last=False),
    )
