"""Names of mamba_ssm.modules.block."""

from ...block import Block

__all__ = ["Block"]
