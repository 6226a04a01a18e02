"""Names of mamba_ssm.utils.generation."""

from ...generation import GenerationMixin, InferenceParams, sample

__all__ = ["GenerationMixin", "InferenceParams", "sample"]
