"""Calls the compiled CPU form: checks nothing, copies nothing that is float32 with neighbouring channels side by side."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Optional, Tuple

import torch
from torch import Tensor

from .. import cpu_build
from ..traversals.tables import split, tables
from .chunked import CHECKPOINT
from .chunked_backward import Inputs
from .reference import saturated

LANES = 16  # channels per vector, as in cpu.cpp
# In the order of the struct; "_b", "_r" ... are strides over the axes B, R, N, G.
_FIELDS = [
    field
    for line in (
        "B R N C S Gw Gr H K softplus concat segments workers threads scale",
        "u u_b u_r u_n delta delta_b delta_r delta_n rate rate_r",
        "write write_b write_r write_n write_g read read_b read_r read_n read_g",
        "skip skip_r z z_b z_n bias bias_r start weights order begins",
        "out parts last kept grad_out grad_out_b grad_out_n grad_last",
        "grad_u grad_u_r grad_delta grad_delta_r grad_rate grad_write grad_write_r grad_read grad_read_r",
        "grad_skip grad_z grad_bias grad_start grad_weights",
    )
    for field in line.split()
]


class Scan(ctypes.Structure):
    """Mirror of `struct Scan` in cpu.cpp: every field is 8 bytes, pointers are held as integers, 0 for none."""

    _fields_ = [(name, ctypes.c_double if name == "scale" else ctypes.c_int64) for name in _FIELDS]


def _library() -> ctypes.CDLL:
    return cpu_build.load(Path(__file__).with_name("cpu.cpp"))


def _pointer(x: Optional[Tensor]) -> int:
    return 0 if x is None else x.data_ptr()


def _shared(stride: int, size: int) -> int:
    """A stride over traversals; 0 where all share the tensor."""
    return stride if size > 1 else 0


class _Call:
    """The struct for one call, and the tensors its pointers lead to, which must outlive it."""

    def __init__(self, given: Inputs, grid: Tuple[int, ...], traversals: str, softplus: bool, merge: str) -> None:
        self.scan = Scan()
        self.alive: list[Optional[Tensor]] = []
        u, names = given.u, split(traversals)
        scan, count = self.scan, len(names)
        order, begins = tables(traversals, grid, u.device)
        scan.B, scan.R, scan.N, scan.C, scan.S = u.shape[0], count, u.shape[2], u.shape[3], given.rate.shape[2]
        scan.Gw, scan.Gr, scan.H = given.write.shape[3], given.read.shape[3], order.shape[1]
        scan.K = -(-u.shape[2] // CHECKPOINT)
        scan.softplus, scan.concat = int(softplus), int(merge == "concat")
        scan.scale = 1.0 / count if merge == "mean" else 1.0
        scan.threads = torch.get_num_threads()
        for name in ("u", "delta", "write", "read"):
            x = self.keep(name, cpu_build.in_rows(getattr(given, name)))
            self.put(name, b=x.stride(0), r=_shared(x.stride(1), x.shape[1]), n=x.stride(2))
            if x.dim() == 5:
                self.put(name, g=x.stride(3))
        for name, letter in (("rate", "r"), ("skip", "r"), ("bias", "r")):
            if (given_x := getattr(given, name)) is not None:
                x = self.keep(name, given_x.float().contiguous())
                self.put(name, **{letter: _shared(x.stride(0), x.shape[0])})
        if given.z is not None:
            z = self.keep("z", cpu_build.in_rows(given.z))
            self.put("z", b=z.stride(0), n=z.stride(1))
        for name, given_x in (("start", given.initial_state), ("weights", given.weights)):
            if given_x is not None:
                self.keep(name, given_x.float().contiguous())
        self.keep("order", order)
        self.keep("begins", begins)

    def keep(self, name: str, x: Optional[Tensor]) -> Tensor:
        """Put a tensor's address into a field."""
        self.alive.append(x)
        setattr(self.scan, name, _pointer(x))
        return x  # type: ignore[return-value]

    def put(self, name: str, **strides: int) -> None:
        """Put strides into the fields NAME_b, NAME_r, ..."""
        for letter, stride in strides.items():
            setattr(self.scan, f"{name}_{letter}", stride)

    def blocks(self) -> int:
        """At least how many blocks of channels there are."""
        runs = max(self.scan.H, self.scan.Gw, self.scan.Gr)
        return runs * -(-(self.scan.C // runs) // LANES)


def forward(
    given: Inputs, grid: Tuple[int, ...], traversals: str, softplus: bool, merge: str, save: bool, segments: int = 0
) -> Tuple[Tensor, Tensor, Tensor]:
    """Outputs, last states and kept states, as `chunked_scan`; the outputs in the dtype of `u`.

    Args:
        segments: pieces the sequence is cut into to occupy more threads; 0 chooses.
    """
    call = _Call(given, grid, traversals, softplus, merge)
    scan, u = call.scan, given.u
    wide = scan.R * scan.C if merge == "concat" else scan.C
    out = call.keep("out", torch.empty(scan.B, scan.N, wide))
    last = call.keep("last", torch.empty(scan.B, scan.R, scan.C, scan.S))
    kept = torch.empty(scan.B, scan.R, scan.K if save else 0, scan.S, scan.C)
    call.keep("kept", kept if save else None)
    items = scan.B * call.blocks()
    few = items < scan.threads and scan.R > 1 and merge != "concat"
    if few:  # too few blocks to occupy all threads: traversals run at the same time
        call.keep("parts", torch.empty(scan.B, scan.N, scan.R * scan.C))
    per_item = scan.threads // (items * (scan.R if few or merge == "concat" else 1))
    scan.segments = min(segments or (per_item + 1 if per_item > 1 else 1), scan.K)
    _library().selective_scan_forward(ctypes.byref(scan))
    return saturated(out, u.dtype), last, kept


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
    """Gradients of all inputs in float32; None for absent ones."""
    call = _Call(given, grid, traversals, softplus, merge)
    scan, shape = call.scan, given.u.shape
    scan.workers = max(1, min(-(-scan.threads // scan.B), call.blocks()))
    grad = call.keep("grad_out", cpu_build.in_rows(grad_out))
    call.put("grad_out", b=grad.stride(0), n=grad.stride(1))
    call.keep("grad_last", grad_last.float().contiguous())
    call.keep("kept", kept.contiguous())
    grads = {}
    for name in ("u", "delta"):
        grads[name] = call.keep(f"grad_{name}", torch.empty(getattr(given, name).shape))
        call.put(f"grad_{name}", r=_shared(scan.N * scan.C, grads[name].shape[1]))
    for name in ("write", "read"):
        size = getattr(given, name).shape
        grads[name] = call.keep(f"grad_{name}", torch.zeros(size))
        call.put(f"grad_{name}", r=_shared(size[2:].numel(), size[1]))
    per_channel = (scan.B, scan.R, scan.C)
    grads["rate"] = call.keep("grad_rate", torch.empty(*per_channel, scan.S))
    for name, field in (("skip", "skip"), ("bias", "bias"), ("weights", "weights")):
        if getattr(given, name) is not None:
            grads[name] = call.keep(f"grad_{field}", torch.empty(per_channel))
    if given.z is not None:
        grads["z"] = call.keep("grad_z", torch.empty(shape[0], shape[2], shape[3]))
    if given.initial_state is not None:
        grads["initial_state"] = call.keep("grad_start", torch.empty(given.initial_state.shape))
    _library().selective_scan_backward(ctypes.byref(scan))
    return _sum_partials(grads, given)


def _sum_partials(grads: dict[str, Tensor], given: Inputs) -> Inputs:
    """Add up what samples and traversals wrote apart, always in the same order."""
    for name in ("rate", "skip", "bias", "weights"):
        if name in grads:
            summed, shared = grads[name].sum(0), getattr(given, name).shape[0] == 1
            grads[name] = summed.sum(0, keepdim=True) if shared else summed
    return Inputs(*(grads.get(name) for name in Inputs._fields))  # type: ignore[arg-type]
