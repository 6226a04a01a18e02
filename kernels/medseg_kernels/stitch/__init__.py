"""Blend windows into a slab and reduce it to labels on the source grid."""

from .op import resample_argmax, stitch_labels, stitch_logits, stitch_window
from .reference import NonFiniteLogitsError
from .tables import AxisTable, axis_table

__all__ = [
    "AxisTable",
    "NonFiniteLogitsError",
    "axis_table",
    "resample_argmax",
    "stitch_labels",
    "stitch_logits",
    "stitch_window",
]
