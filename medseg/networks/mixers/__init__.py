"""Token mixers by name. One file, one mixer: (B, X, Y, Z, C) and a context in, the same out."""

from torch import nn

from .identity import Identity
from .mambavision import MambaVisionMixer
from .mlp import MLP, SwiGLU
from .window_attention import WindowAttention

MIXERS: dict[str, type[nn.Module]] = {
    "identity": Identity,
    "mambavision": MambaVisionMixer,
    "window_attention": WindowAttention,
}

# Sub-layers of token stages that mix channels only; `mixer=` never replaces them.
CHANNEL_MIXERS: dict[str, type[nn.Module]] = {"mlp": MLP, "swiglu": SwiGLU}
