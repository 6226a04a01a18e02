"""The names of mamba_ssm's compiled extension; runs on any device."""

from .sequence_scan import scan_backward as bwd
from .sequence_scan import scan_forward as fwd

__all__ = ["bwd", "fwd"]
