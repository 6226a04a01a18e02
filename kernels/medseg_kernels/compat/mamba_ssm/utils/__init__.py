"""Names of mamba_ssm.utils."""
