"""Names of mamba_ssm.modules."""
