"""Names of mamba_ssm.ops."""
