"""Gated linear recurrences: retention, SSD, GLA, (gated) delta rule and mLSTM as one chunked operator. See README.md."""

from .api import gated_linear_recurrence
from .members import delta_rule, gated_delta_rule, gla, retention, ssd
from .mlstm import mlstm

__all__ = ["delta_rule", "gated_delta_rule", "gated_linear_recurrence", "gla", "mlstm", "retention", "ssd"]
