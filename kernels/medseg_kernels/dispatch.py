"""Which backend runs an op: argument > environment > first that can run. Each refusal carries its reason.

An op family lists its backends in a plain dict, best first, in its `op.py`:

    BACKENDS = {"triton": Backend(...), "cpu": Backend(...), "reference": Backend(...)}

A backend asked for by name that cannot run is an error with the reason; no backend ever stands in for another under its
name, and all of them compute the same function.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch.autograd import forward_ad

from medseg_kernels import cpu_build

ENVIRONMENT = "MEDSEG_BACKEND"
MOST_ROWS = 65535  # programs along the second and third axis of a CUDA grid


class BackendError(RuntimeError):
    """A backend was asked for by name and cannot run; the message says why."""


@dataclass(frozen=True)
class Backend:
    """One way to run an op.

    Args:
        name: `triton`, `cpu` or `reference`.
        refuse: given the tensors of a call, None when this backend can run them, else the reason in one sentence.
    """

    name: str
    refuse: Callable[..., str | None]


def environment(op: str) -> tuple[str, str]:
    """The variables that `choose` looks at."""
    return f"MEDSEG_{op.upper()}_BACKEND", ENVIRONMENT


def refuse_forward_mode(op: str, *tensors: torch.Tensor | None) -> None:
    """Refuse tensors that carry a tangent: torch would drop it at the op and go on with zeros.

    Raises:
        NotImplementedError: naming the op and the way out.
    """
    if forward_ad._current_level < 0:
        return
    if any(tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors):
        raise NotImplementedError(
            f"{op}: has no forward-mode derivatives (torch.func.jvp, jacfwd, torch.autograd.forward_ad); use reverse mode "
            "(backward, torch.autograd.grad)"
        )


def refuse_derivatives(op: str, *tensors: object) -> None:
    """Refuse tensors that ask for any derivative: an op that works on memory would hand on those of another function, or none.

    Raises:
        NotImplementedError: naming the op and the way out.
    """
    kept = [value for value in tensors if isinstance(value, torch.Tensor)]
    refuse_forward_mode(op, *kept)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in kept):
        raise NotImplementedError(f"{op}: has no derivatives; detach the tensor, or call it under torch.no_grad()")


def choose(op: str, backends: Mapping[str, Backend], requested: str | None, *tensors: torch.Tensor | None) -> str:
    """Name of the backend that will run `op` on these tensors.

    Args:
        op: name of the op, for messages; its own environment variable is MEDSEG_<OP>_BACKEND, next to MEDSEG_BACKEND.
        backends: the family's table, best first.
        requested: what the caller asked for by argument, or None.
        tensors: what the op is called with (None for an absent optional).

    Warns once where tensors on a GPU do not get the GPU's kernels, since that is slow and looks like nothing.

    Raises:
        ValueError: no backend has that name, or the tensors are on several devices.
        BackendError: the one asked for by argument or environment cannot run.
    """
    asked = requested or next(filter(None, map(os.environ.get, environment(op))), None)
    present = [tensor for tensor in tensors if tensor is not None]
    _check_one_device(op, tensors)
    if asked:
        if asked not in backends:
            raise ValueError(f"{op}: unknown backend {asked!r}; there are {', '.join(backends)}")
        if (reason := backends[asked].refuse(*present)) is not None:
            raise BackendError(f"{op}: backend {asked!r} cannot run here: {reason}")
        return asked
    refusals: dict[str, str] = {}
    for name, backend in backends.items():
        reason = backend.refuse(*present)
        if reason is None:
            if "triton" in refusals and present and present[0].device.type == "cuda":
                _warn_slow_on_gpu(op, name, refusals["triton"])
            return name
        refusals[name] = reason
    raise BackendError(f"{op}: no backend can run: {explain(op, backends, *present)}")


def _check_one_device(op: str, tensors: tuple[torch.Tensor | None, ...]) -> None:
    """All tensors on one device.

    Raises:
        ValueError: which of them is elsewhere, before any kernel is started.
    """
    first: torch.device | None = None
    for number, tensor in enumerate(tensors):
        if tensor is None:
            continue
        if first is None:
            first = tensor.device
        elif tensor.device != first:
            raise ValueError(f"{op}: tensor {number} is on {tensor.device}; expected {first}, where the first one is")


@functools.cache
def _warn_slow_on_gpu(op: str, name: str, reason: str) -> None:
    warnings.warn(
        f"medseg_kernels: {op} runs on the GPU in its slower {name} form: {reason}. "
        f"MEDSEG_{op.upper()}_BACKEND={name} asks for it in silence.",
        stacklevel=4,
    )


def on_device(tensor: torch.Tensor) -> AbstractContextManager[object]:
    """Makes the tensor's GPU the current one, on which triton launches; nothing elsewhere."""
    return torch.cuda.device(tensor.device) if tensor.device.type == "cuda" else contextlib.nullcontext()


def too_many(what: str, count: int) -> str | None:
    """The reason when a kernel's grid cannot hold `count` rows, else None."""
    return f"{what} is {count}, and a grid holds {MOST_ROWS}" if count > MOST_ROWS else None


def explain(op: str, backends: Mapping[str, Backend], *tensors: torch.Tensor) -> str:
    """One line per backend: which would run on these tensors, and why the others do not."""
    lines, chosen = [f"{op}:"], False
    for name, backend in backends.items():
        reason = backend.refuse(*tensors)
        if reason is None:
            lines.append(f"  {name}: {'runs' if not chosen else 'could run'}")
            chosen = True
        else:
            lines.append(f"  {name}: no, {reason}")
    return "\n".join(lines)


@functools.cache
def triton_missing() -> str | None:
    """None when the triton package is installed, else the reason."""
    return None if importlib.util.find_spec("triton") else "the package triton is not installed"


def interpreting() -> bool:
    """True when triton kernels run on the CPU by its interpreter (TRITON_INTERPRET=1, set before the first import)."""
    return os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")


def refuse_triton(*tensors: torch.Tensor) -> str | None:
    """The usual conditions of a triton backend: the package, one GPU for all tensors or the interpreter."""
    if (reason := triton_missing()) is not None:
        return reason
    if interpreting():
        bad = next((t.dtype for t in tensors if t.dtype == torch.bfloat16), None)
        return f"triton's interpreter computes {bad} wrongly" if bad is not None else None
    if not tensors:
        return None if torch.cuda.is_available() else "no GPU is visible"
    places = {str(t.device) for t in tensors}
    if len(places) == 1 and tensors[0].device.type == "cuda":
        return None
    found = ", ".join(sorted(places))
    return f"tensors are on {found}, expected one GPU" if len(places) > 1 else f"tensors are on {found}, not on a GPU"


def refuse_cpu(*tensors: torch.Tensor) -> str | None:
    """The usual conditions of a compiled CPU backend: CPU tensors and a compiler. Warns once where there is none."""
    kinds = {t.device.type for t in tensors}
    if kinds and kinds != {"cpu"}:
        return f"tensors are on {', '.join(sorted(kinds))}, not on the CPU"
    if (reason := cpu_build.why_not()) is not None:
        _warn_no_compiler(reason)
        return reason
    return None


def refuse_float64(*tensors: torch.Tensor) -> str | None:
    """Of a form that keeps its state in float32: wider tensors want the reference."""
    if any(t.dtype == torch.float64 for t in tensors):
        return "it computes in float32 and the tensors are float64"
    return None


def refuse_cpu_float32(*tensors: torch.Tensor) -> str | None:
    """None when a compiled form in float32 can run these tensors, else the reason."""
    return refuse_float64(*tensors) or refuse_cpu(*tensors)


@functools.cache
def _warn_no_compiler(reason: str) -> None:
    warnings.warn(
        f"medseg_kernels: compiled CPU kernels are not available ({reason}); the slower torch form runs.", stacklevel=4
    )
