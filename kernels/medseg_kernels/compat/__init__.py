"""Run code that was written for mamba_ssm and causal_conv1d on medseg's operators, unchanged and on any device.

    python -m medseg_kernels.compat train.py --epochs 3        # or
    import medseg_kernels.compat; medseg_kernels.compat.activate()
    from mamba_ssm import Mamba

The names are registered for the process that asks for them, never on disk. Without activation the modules lie under their own
names, `medseg_kernels.compat.mamba_ssm.modules.mamba_simple` for one; importing them changes nothing. README.md lists what is
offered and what differs.
"""

from .activation import ForeignPackageError, activate, deactivate
from .options import UnknownOptionError

__all__ = ["ForeignPackageError", "UnknownOptionError", "activate", "deactivate"]
