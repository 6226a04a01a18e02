"""Token mixers by name. One file, one mixer: (B, X, Y, Z, C) and a context in, the same out."""

from torch import nn

from .carrier_attention import CarrierAttention, CarrierMLP, CarrierSpread
from .full_attention import FullAttention
from .gated_delta import GatedDelta
from .gla import GatedLinearAttention
from .global_query_attention import GlobalQueryAttention
from .hyena_nd import HyenaND
from .identity import Identity
from .mambavision import MambaVisionMixer
from .mlp import MLP, SwiGLU
from .mlstm import MLSTM
from .multi_head_scan import MultiHeadScan
from .retention import Retention
from .selective_scan import SelectiveScan
from .ssd import SSD
from .time_attention import TimeAttention
from .window_attention import (
    AxialAttention,
    GridAttention,
    ShiftedWindowAttention,
    SlidingWindowAttention,
    StripeAttention,
    WindowAttention,
)

MIXERS: dict[str, type[nn.Module]] = {
    "axial_attention": AxialAttention,
    "carrier_attention": CarrierAttention,
    "full_attention": FullAttention,
    "gated_delta": GatedDelta,
    "gla": GatedLinearAttention,
    "global_query_attention": GlobalQueryAttention,
    "grid_attention": GridAttention,
    "hyena_nd": HyenaND,
    "identity": Identity,
    "mambavision": MambaVisionMixer,
    "mlstm": MLSTM,
    "multi_head_scan": MultiHeadScan,
    "retention": Retention,
    "selective_scan": SelectiveScan,
    "shifted_window_attention": ShiftedWindowAttention,
    "sliding_window_attention": SlidingWindowAttention,
    "ssd": SSD,
    "stripe_attention": StripeAttention,
    "time_attention": TimeAttention,
    "window_attention": WindowAttention,
}

# Sub-layers of token stages that mix channels only; `mixer=` never replaces them.
CHANNEL_MIXERS: dict[str, type[nn.Module]] = {
    "carrier_mlp": CarrierMLP,
    "carrier_spread": CarrierSpread,
    "mlp": MLP,
    "swiglu": SwiGLU,
}
