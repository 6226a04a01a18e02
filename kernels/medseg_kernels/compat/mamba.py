"""The module `Mamba` of mamba_ssm and of its forks in Vim (bimamba v1, v2) and SegMamba (v3), with their parameter names.

K rank of the step size, S states, W taps. Sources: Gu and Dao 2023 (Mamba); Zhu et al. 2024 (Vim); Xing et al. 2024 (SegMamba).
"""

from __future__ import annotations

import math
from typing import Any, List, Optional, Tuple, Union

import torch
from torch import Tensor, nn
from torch.nn import functional

from .inner import Direction, scan_both_ways, scan_directions
from .mamba_cache import Cached, initial_dt_bias, last_inputs, undecayed
from .options import UnknownOptionError, refuse_unknown, refuse_value
from .sequence_scan import selective_scan_fn
from .short_convolution import along_sequence, causal_conv1d_update
from .state_update import selective_state_update

# what is scanned, by bimamba_type: suffixes of parameter names, and orders over (slices, L / slices)
DIRECTIONS = {"none": ("",), "v1": ("",), "v2": ("", "_b"), "v3": ("", "_b", "_s")}
TRAVERSALS = ("raster", "reversed raster", "interslice:X")


class Mamba(Cached):
    """A Mamba block: (B, L, M) -> (B, L, M).

    Args:
        d_model: M.
        d_state: S.
        d_conv: W.
        expand: inner channels per channel.
        dt_rank: K, or "auto" for a sixteenth of M.
        dt_min, dt_max, dt_init, dt_scale, dt_init_floor: how step sizes start.
        conv_bias, bias: of the convolution; of the projections in and out.
        use_fast_path: taken and without effect: there is one path, and it computes every direction.
        layer_idx: names this layer's states in generation.
        bimamba_type: none; v1 (Vim: forward and backward share all but A), v2 (Vim: backward has parameters of its own), v3
            (SegMamba: v2 and a scan from slice to slice).
        if_devide_out, if_divide_out: half of the sum of both directions (v2; spelled both ways in Vim's history).
        init_layer_scale: start of a factor `gamma` per channel, or None for no factor.
        nslices: slices of the sequence, for v3; L is divisible by it.

    Raises:
        UnknownOptionError: an option, or a value of one, that is not computed here.
    """

    conv1d: nn.Conv1d
    x_proj: nn.Linear
    dt_proj: nn.Linear
    A_log: nn.Parameter

    def __init__(
        self, d_model: int, d_state: int = 16, d_conv: int = 4, expand: int = 2, dt_rank: Union[int, str] = "auto",
        dt_min: float = 0.001, dt_max: float = 0.1, dt_init: str = "random", dt_scale: float = 1.0,
        dt_init_floor: float = 1e-4, conv_bias: bool = True, bias: bool = False, use_fast_path: bool = True,
        layer_idx: Optional[int] = None, device: Any = None, dtype: Any = None, bimamba_type: Optional[str] = "none", *,
        if_devide_out: bool = False, if_divide_out: bool = False, init_layer_scale: Optional[float] = None,
        nslices: int = 5, **unknown: object,
    ) -> None:  # fmt: skip
        refuse_unknown("Mamba", unknown)
        if (bimamba_type or "none") not in DIRECTIONS:
            refuse_value("Mamba", "bimamba_type", bimamba_type, ", ".join(DIRECTIONS))
        if dt_init not in ("random", "constant"):
            refuse_value("Mamba", "dt_init", dt_init, "random, constant")
        super().__init__()
        factory = {"device": device, "dtype": dtype}
        self.d_model, self.d_state, self.d_conv, self.expand = d_model, d_state, d_conv, expand
        self.d_inner, self.layer_idx, self.use_fast_path = int(expand * d_model), layer_idx, use_fast_path
        self.dt_rank = math.ceil(d_model / 16) if isinstance(dt_rank, str) else dt_rank
        self.bimamba_type, self.nslices, self.init_layer_scale = bimamba_type or "none", nslices, init_layer_scale
        self.if_devide_out = self.if_divide_out = if_devide_out or if_divide_out
        self.activation, self.act = "silu", nn.SiLU()
        if init_layer_scale is not None:
            self.gamma = nn.Parameter(init_layer_scale * torch.ones(d_model, device=device))
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=bias, **factory)
        self._steps = (dt_min, dt_max, dt_init_floor, dt_init, self.dt_rank**-0.5 * dt_scale)
        for suffix in DIRECTIONS[self.bimamba_type]:
            self._add_direction(suffix, conv_bias, factory)
        if self.bimamba_type == "v1":
            self.A_b_log = undecayed(self.A_log.detach().clone())
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=bias, **factory)

    def _add_direction(self, suffix: str, conv_bias: bool, factory: dict[str, Any]) -> None:
        """conv1d, x_proj, dt_proj, A_log and D of one direction, under their published names."""
        inner, kernel, (lowest, highest, floor, init, bound) = self.d_inner, self.d_conv, self._steps
        conv = nn.Conv1d(inner, inner, kernel, groups=inner, padding=kernel - 1, bias=conv_bias, **factory)
        step = nn.Linear(self.dt_rank, inner, bias=True, **factory)
        if not suffix:  # the forks leave the other directions at nn.Linear's own start
            if init == "random":
                nn.init.uniform_(step.weight, -bound, bound)
            else:
                nn.init.constant_(step.weight, bound)
            with torch.no_grad():
                step.bias.copy_(initial_dt_bias(inner, lowest, highest, floor, **factory))
            step.bias._no_reinit = True  # type: ignore[attr-defined]
        rates = torch.arange(1, self.d_state + 1, dtype=torch.float32, device=factory["device"]).repeat(inner, 1)
        project = nn.Linear(inner, self.dt_rank + 2 * self.d_state, bias=False, **factory)
        setattr(self, f"A{suffix}_log", undecayed(torch.log(rates)))
        setattr(self, f"D{suffix}", undecayed(torch.ones(inner, device=factory["device"])))
        for name, module in (("conv1d", conv), ("x_proj", project), ("dt_proj", step)):
            setattr(self, f"{name}{suffix}", module)

    def _direction(self, suffix: str, rates: Optional[Tensor] = None) -> Direction:
        part = {name: getattr(self, f"{name}{suffix}") for name in ("conv1d", "x_proj", "dt_proj", "D")}
        log = getattr(self, f"A{suffix}_log") if rates is None else rates
        return Direction(
            part["conv1d"].weight, part["conv1d"].bias, part["x_proj"].weight, part["dt_proj"].weight,
            -torch.exp(log.float() if log.dtype != torch.float64 else log), part["D"], part["dt_proj"].bias,
        )  # fmt: skip

    def forward(self, hidden_states: Tensor, inference_params: Any = None) -> Tensor:
        """(B, L, M) -> (B, L, M); with inference_params the states are filled, or one step is taken from them."""
        if inference_params is not None:
            return self._scaled(self._generating(hidden_states, inference_params))
        x, z = self.in_proj(hidden_states).chunk(2, -1)
        if self.bimamba_type == "v1":
            y = self._shared(x, z)
        else:
            suffixes = DIRECTIONS[self.bimamba_type]
            slices = self._slices(x.shape[1]) if self.bimamba_type == "v3" else 1
            y = scan_directions(x, z, [self._direction(s) for s in suffixes], TRAVERSALS[: len(suffixes)], slices)
        if self.if_devide_out and self.bimamba_type == "v2":
            y = y / 2
        return self._scaled(self.out_proj(y))

    def _scaled(self, out: Tensor) -> Tensor:
        return out if self.init_layer_scale is None else out * self.gamma

    def _slices(self, length: int) -> int:
        if length % self.nslices:
            raise ValueError(
                f"Mamba: bimamba_type='v3': found a sequence of {length} with nslices={self.nslices}; expected a length that "
                "is divisible by nslices. Give the number of slices of the volume as it arrives here."
            )
        return self.nslices

    def _shared(self, x: Tensor, z: Tensor) -> Tensor:
        """v1: one convolution and one set of projections for both directions, which differ in A only."""
        return scan_both_ways(x, z, self._direction(""), self._direction("", self.A_b_log).A)

    def _generating(self, hidden_states: Tensor, inference_params: Any) -> Tensor:
        if self.bimamba_type != "none":
            raise UnknownOptionError(
                f"medseg_kernels.compat: Mamba: generation (inference_params) with bimamba_type={self.bimamba_type!r}: a step "
                "cannot know what comes after it. Leave inference_params out."
            )
        conv_state, ssm_state = self._get_states_from_cache(inference_params, hidden_states.shape[0])
        if inference_params.seqlen_offset > 0:
            return self.step(hidden_states, conv_state, ssm_state)[0]
        x, z = self.in_proj(hidden_states).chunk(2, -1)
        conv_state.copy_(last_inputs(x, self.d_conv))
        part = self._direction("")
        v = along_sequence(x, self.conv1d.weight[:, 0], self.conv1d.bias, silu=True)
        low, write, read = self._split(self.x_proj(v))
        y, last = selective_scan_fn(
            v.transpose(1, 2), functional.linear(low, part.dt_proj).transpose(1, 2), part.A, write.transpose(1, 2),
            read.transpose(1, 2), part.D, z.transpose(1, 2), part.dt_bias, delta_softplus=True, return_last_state=True,
        )  # fmt: skip
        ssm_state.copy_(last)
        return self.out_proj(y.transpose(1, 2))

    def _split(self, mixed: Tensor) -> List[Tensor]:
        return list(mixed.split([self.dt_rank, self.d_state, self.d_state], -1))

    def step(self, hidden_states: Tensor, conv_state: Tensor, ssm_state: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        """One token (B, 1, M): output (B, 1, M) and both states, which are changed in place."""
        if hidden_states.shape[1] != 1:
            raise ValueError(f"Mamba.step: found {hidden_states.shape[1]} tokens, expected one at a time")
        x, z = self.in_proj(hidden_states[:, 0]).chunk(2, -1)
        x = causal_conv1d_update(x, conv_state, self.conv1d.weight[:, 0], self.conv1d.bias, self.activation)
        low, write, read = self._split(self.x_proj(x))
        part = self._direction("")
        y = selective_state_update(
            ssm_state, x, functional.linear(low, part.dt_proj), part.A, write, read, part.D, z, part.dt_bias,
            dt_softplus=True,
        )  # fmt: skip
        return self.out_proj(y).unsqueeze(1), conv_state, ssm_state

    def _weight_dtypes(self) -> Tuple[torch.dtype, torch.dtype]:
        return self.conv1d.weight.dtype, self.dt_proj.weight.dtype

    def _states(self, batch_size: int, conv_dtype: Any, ssm_dtype: Any) -> Tuple[Tensor, Tensor]:
        like = self.out_proj.weight
        return (
            like.new_zeros(batch_size, self.d_inner, self.d_conv, dtype=conv_dtype),
            like.new_zeros(batch_size, self.d_inner, self.d_state, dtype=ssm_dtype),
        )
