"""Names of mamba_ssm.ops.triton; the kernels are those of medseg_kernels, on whatever backend can run."""
