"""What Mamba and Mamba2 share: how initial step sizes are drawn, and the states that generation keeps per layer."""

from __future__ import annotations

import math
from typing import Any, Optional, Tuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from .options import refuse_value


def undecayed(x: Tensor) -> nn.Parameter:
    """A parameter that published training code leaves without weight decay, by the mark that it looks for."""
    parameter = nn.Parameter(x)
    parameter._no_weight_decay = True  # type: ignore[attr-defined]
    return parameter


def initial_dt_bias(size: int, lowest: float, highest: float, floor: float, **factory: Any) -> Tensor:
    """Biases whose softplus is log-uniform between two step sizes. Source: Gu and Dao 2023, section 3.6."""
    steps = torch.exp(torch.empty(size, **factory).uniform_(math.log(lowest), math.log(highest))).clamp(min=floor)
    return steps + torch.log(-torch.expm1(-steps))  # the inverse of softplus


def last_inputs(x: Tensor, width: int) -> Tensor:
    """The last `width` inputs of (B, L, D) as (B, D, width), zeros where the sequence is shorter."""
    return functional.pad(x.transpose(1, 2), (width - x.shape[1], 0))


class Cached(nn.Module):
    """A layer with a convolution's state and a scan's state; who inherits sets `layer_idx` and `_states`."""

    layer_idx: Optional[int]

    def _states(self, batch_size: int, conv_dtype: Any, ssm_dtype: Any) -> Tuple[Tensor, Tensor]:
        raise NotImplementedError

    def _weight_dtypes(self) -> Tuple[torch.dtype, torch.dtype]:
        raise NotImplementedError

    def allocate_inference_cache(
        self, batch_size: int, max_seqlen: int, dtype: Any = None, **kwargs: object
    ) -> Tuple[Tensor, Tensor]:
        """Zero states of the convolution and of the scan; the length of the sequence does not matter."""
        conv, ssm = self._weight_dtypes()
        return self._states(batch_size, dtype or conv, dtype or ssm)

    def _get_states_from_cache(
        self, inference_params: Any, batch_size: int, initialize_states: bool = False
    ) -> Tuple[Tensor, Tensor]:
        """This layer's states in `inference_params.key_value_memory_dict`, made where they are missing."""
        if self.layer_idx is None:
            refuse_value(type(self).__name__, "layer_idx", None, "generation with a layer_idx, which names the states")
        memory = inference_params.key_value_memory_dict
        if self.layer_idx not in memory:
            memory[self.layer_idx] = self.allocate_inference_cache(batch_size, 0)
        elif initialize_states:
            for state in memory[self.layer_idx]:
                state.zero_()
        return memory[self.layer_idx]
