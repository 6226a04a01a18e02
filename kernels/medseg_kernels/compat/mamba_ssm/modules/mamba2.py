"""Names of mamba_ssm.modules.mamba2."""

from ...mamba2 import Mamba2

__all__ = ["Mamba2"]
