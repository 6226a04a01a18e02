"""The names of the package mamba_ssm, on medseg's operators. Importing it registers nothing; see `medseg_kernels.compat`."""

from ..inner import mamba_inner_fn
from ..mamba import Mamba
from ..mamba2 import Mamba2
from ..sequence_scan import selective_scan_fn

__version__ = "2.3.0+medseg"  # what is offered is that version's interface, as far as it goes
__all__ = ["Mamba", "Mamba2", "mamba_inner_fn", "selective_scan_fn"]
