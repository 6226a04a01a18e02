"""Names of mamba_ssm.ops.triton.layernorm, as layer_norm was called in version 1."""

from ....norms import RMSNorm, layer_norm_fn, rms_norm_fn

__all__ = ["RMSNorm", "layer_norm_fn", "rms_norm_fn"]
