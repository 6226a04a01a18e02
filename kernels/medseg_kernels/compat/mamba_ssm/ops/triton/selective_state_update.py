"""Names of mamba_ssm.ops.triton.selective_state_update."""

from ....state_update import selective_state_update

__all__ = ["selective_state_update"]
