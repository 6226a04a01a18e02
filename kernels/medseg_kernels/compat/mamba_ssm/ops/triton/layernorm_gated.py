"""Names of mamba_ssm.ops.triton.layernorm_gated."""

from ....norms import LayerNormGated as LayerNorm
from ....norms import RMSNormGated as RMSNorm
from ....norms import layernorm_fn, rmsnorm_fn

__all__ = ["LayerNorm", "RMSNorm", "layernorm_fn", "rmsnorm_fn"]
