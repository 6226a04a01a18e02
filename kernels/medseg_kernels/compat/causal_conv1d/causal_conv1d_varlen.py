"""Names of causal_conv1d.causal_conv1d_varlen."""

from ..short_convolution import causal_conv1d_varlen_states

__all__ = ["causal_conv1d_varlen_states"]
