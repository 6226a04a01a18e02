"""The names of VMamba's earlier compiled extension: no gate. Runs on any device."""

from .selective_scan_cuda_oflex import bwd, fwd

__all__ = ["bwd", "fwd"]
