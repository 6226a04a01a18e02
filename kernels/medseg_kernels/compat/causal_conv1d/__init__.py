"""The names of the package causal_conv1d, on medseg's operators. Importing it registers nothing; see `medseg_kernels.compat`."""

from ..short_convolution import causal_conv1d_fn, causal_conv1d_update

__version__ = "1.5.0+medseg"
__all__ = ["causal_conv1d_fn", "causal_conv1d_update"]
