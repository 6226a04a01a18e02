"""Which backend runs each op here, and why the others do not."""

from __future__ import annotations

import importlib
from typing import Optional

from . import dispatch

# Families whose `op.py` holds a table BACKENDS.
FAMILIES = ("selective_scan", "short_conv", "window_attention", "gated_linear_recurrence", "stitch", "warp")


def explain_backend(op: Optional[str] = None, device: str = "auto") -> str:
    """A line per op and backend: runs, could run, or no and the reason.

    Args:
        op: one family, or None for all.
        device: the device of the tensors: cpu, cuda, or auto (cuda where there is a GPU).

    Raises:
        ValueError: no family has that name.

    Example:
        >>> print(explain_backend("selective_scan", "cpu"))     # doctest: +SKIP
        selective_scan:
          triton: no, tensors are on cpu, not on a GPU
          cpu: runs
          reference: could run
    """
    import torch

    if op is not None and op not in FAMILIES:
        raise ValueError(f"explain_backend: unknown op {op!r}; there are {', '.join(FAMILIES)}")
    place = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    sample = torch.empty(0, device=place)
    lines = []
    for family in FAMILIES if op is None else (op,):
        module = importlib.import_module(f"{__package__}.{family}.op")
        lines.append(dispatch.explain(family, module.BACKENDS, sample))
    return "\n".join(lines)
