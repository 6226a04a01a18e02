"""Names of mamba_ssm.modules.mamba_simple."""

from ...block import Block
from ...mamba import Mamba

__all__ = ["Block", "Mamba"]
