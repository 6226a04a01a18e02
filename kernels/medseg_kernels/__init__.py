"""Operators for 3D volumes with a GPU (triton), a compiled CPU and a readable reference form each. Public names only."""

from .convolved_scan.op import convolved_scan
from .explain import explain_backend
from .gated_linear_recurrence import (
    delta_rule,
    gated_delta_rule,
    gated_linear_recurrence,
    gla,
    mlstm,
    retention,
    ssd,
)
from .selective_scan.api import (
    selective_scan,
    selective_scan_fn,
    selective_scan_scriptable,
    selective_scan_with_state,
)
from .short_conv.api import short_conv
from .stitch import (
    AxisTable,
    NonFiniteLogitsError,
    axis_table,
    resample_argmax,
    stitch_labels,
    stitch_logits,
    stitch_window,
)
from .warp import change_gamma, stretch_contrast, symmetric_filter, warp_patch
from .window_attention import relative_coordinates, window_attention, window_attention_with_carriers, window_grid

__all__ = [
    "AxisTable",
    "NonFiniteLogitsError",
    "axis_table",
    "change_gamma",
    "convolved_scan",
    "delta_rule",
    "explain_backend",
    "gated_delta_rule",
    "gated_linear_recurrence",
    "gla",
    "mlstm",
    "relative_coordinates",
    "resample_argmax",
    "retention",
    "selective_scan",
    "selective_scan_fn",
    "selective_scan_scriptable",
    "selective_scan_with_state",
    "short_conv",
    "ssd",
    "stitch_labels",
    "stitch_logits",
    "stitch_window",
    "stretch_contrast",
    "symmetric_filter",
    "warp_patch",
    "window_attention",
    "window_attention_with_carriers",
    "window_grid",
]
