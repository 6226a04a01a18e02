"""Names of mamba_ssm.ops.selective_scan_interface."""

from ...inner import bimamba_inner_fn, mamba_inner_fn, mamba_inner_fn_no_out_proj
from ...sequence_scan import selective_scan_fn, selective_scan_ref

__all__ = [
    "bimamba_inner_fn",
    "mamba_inner_fn",
    "mamba_inner_fn_no_out_proj",
    "selective_scan_fn",
    "selective_scan_ref",
]
