"""The module `Mamba2` of mamba_ssm, with its parameter names. Source: Dao and Gu 2024 (Mamba-2).

M model width, H heads of P channels, G groups, S states, W taps; the projection in holds gate, input, B, C and step size.
"""

from __future__ import annotations

from typing import Any, List, Optional, Tuple

import torch
from torch import Tensor, nn

from .chunk_scan import NO_LIMIT, mamba_chunk_scan_combined, mamba_split_conv1d_scan_combined, step_size
from .mamba_cache import Cached, initial_dt_bias, last_inputs, undecayed
from .norms import RMSNormGated
from .options import refuse_unknown, refuse_value
from .short_convolution import causal_conv1d_fn, causal_conv1d_update, causal_conv1d_varlen_states
from .state_update import selective_state_update


class Mamba2(Cached):
    """A Mamba-2 block: (B, L, M) -> (B, L, M).

    Args:
        d_model: M.
        d_state: S.
        d_conv: W; conv_init: bound of the convolution's uniform start, or None for that of torch.
        expand: inner channels per channel; d_ssm of them pass the scan (None: all), the others a gated MLP.
        headdim: P; ngroups: G.
        A_init_range, dt_min, dt_max, dt_init_floor: how decays and step sizes start; dt_limit: bounds of step sizes.
        D_has_hdim: a skip per channel, not per head.
        rmsnorm, norm_before_gate: the gated norm before the projection out, or the gate alone.
        bias, conv_bias: of the projections; of the convolution.
        chunk_size, use_mem_eff_path, sequence_parallel: taken and without effect on the result.
        layer_idx: names this layer's states in generation.
        process_group: None; tensor parallelism is refused.

    Raises:
        UnknownOptionError: an option, or a value of one, that is not computed here.
    """

    def __init__(
        self, d_model: int, d_state: int = 128, d_conv: int = 4, conv_init: Optional[float] = None, expand: int = 2,
        headdim: int = 64, d_ssm: Optional[int] = None, ngroups: int = 1, A_init_range: Tuple[float, float] = (1, 16),
        D_has_hdim: bool = False, rmsnorm: bool = True, norm_before_gate: bool = False, dt_min: float = 0.001,
        dt_max: float = 0.1, dt_init_floor: float = 1e-4, dt_limit: Tuple[float, float] = NO_LIMIT, bias: bool = False,
        conv_bias: bool = True, chunk_size: int = 256, use_mem_eff_path: bool = True, layer_idx: Optional[int] = None,
        process_group: Any = None, sequence_parallel: bool = True, device: Any = None, dtype: Any = None,
        **unknown: object,
    ) -> None:  # fmt: skip
        refuse_unknown("Mamba2", unknown)
        if process_group is not None:
            refuse_value("Mamba2", "process_group", process_group, "None: one process holds the whole layer")
        super().__init__()
        factory = {"device": device, "dtype": dtype}
        self.d_model, self.d_state, self.d_conv, self.expand, self.headdim = d_model, d_state, d_conv, expand, headdim
        self.d_inner, self.ngroups, self.layer_idx = int(expand * d_model), ngroups, layer_idx
        self.d_ssm = self.d_inner if d_ssm is None else d_ssm
        if self.d_ssm % headdim:
            raise ValueError(
                f"Mamba2: found {self.d_ssm} channels in the scan and headdim={headdim}; expected a multiple of it"
            )
        self.nheads, self.D_has_hdim = self.d_ssm // headdim, D_has_hdim
        self.rmsnorm, self.norm_before_gate, self.dt_limit = rmsnorm, norm_before_gate, (dt_limit[0], dt_limit[1])
        self.chunk_size, self.use_mem_eff_path, self.activation = chunk_size, use_mem_eff_path, "silu"
        mixed = self.d_ssm + 2 * ngroups * d_state
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner + 2 * ngroups * d_state + self.nheads, bias=bias, **factory)
        self.conv1d = nn.Conv1d(mixed, mixed, d_conv, groups=mixed, padding=d_conv - 1, bias=conv_bias, **factory)
        if conv_init is not None:
            nn.init.uniform_(self.conv1d.weight, -conv_init, conv_init)
        self.act = nn.SiLU()
        self.dt_bias = undecayed(initial_dt_bias(self.nheads, dt_min, dt_max, dt_init_floor, **factory))
        rates = torch.empty(self.nheads, dtype=torch.float32, device=device).uniform_(*A_init_range)
        self.A_log = undecayed(torch.log(rates).to(dtype))
        self.D = undecayed(torch.ones(self.d_ssm if D_has_hdim else self.nheads, device=device))
        if rmsnorm:
            self.norm = RMSNormGated(
                self.d_ssm, eps=1e-5, norm_before_gate=norm_before_gate, group_size=self.d_ssm // ngroups, **factory
            )
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=bias, **factory)

    def forward(
        self, u: Tensor, seqlen: Optional[int] = None, seq_idx: Optional[Tensor] = None,
        cu_seqlens: Optional[Tensor] = None, inference_params: Any = None,
    ) -> Tensor:  # fmt: skip
        """(B, L, M), or (B * L, M) with seqlen = L, to the same shape.

        Args:
            seq_idx: (B, L), numbers of packed sequences.
            cu_seqlens: (W + 1,), where packed sequences begin; in generation the states are those at their ends.
            inference_params: fills the states, or takes one step from them.
        """
        x = u if seqlen is None else u.unflatten(0, (-1, seqlen))
        if inference_params is not None:
            out = self._generating(x, seq_idx, cu_seqlens, inference_params)
        else:
            out = mamba_split_conv1d_scan_combined(
                self.in_proj(x), self.conv1d.weight[:, 0], self.conv1d.bias, self.dt_bias, self._rate(), self._skip(),
                self.chunk_size, seq_idx=seq_idx, dt_limit=self.dt_limit, activation=self.activation,
                rmsnorm_weight=self.norm.weight if self.rmsnorm else None,
                rmsnorm_eps=self.norm.eps if self.rmsnorm else 1e-6, outproj_weight=self.out_proj.weight,
                outproj_bias=self.out_proj.bias, headdim=self.headdim, ngroups=self.ngroups,
                norm_before_gate=self.norm_before_gate,
            )  # type: ignore[assignment]  # fmt: skip
        return out if seqlen is None else out.flatten(0, 1)

    def _rate(self) -> Tensor:
        return -torch.exp(self.A_log.to(torch.promote_types(self.A_log.dtype, torch.float32)))

    def _skip(self) -> Tensor:
        """(H,) or (H, P)."""
        return self.D.view(self.nheads, self.headdim) if self.D_has_hdim else self.D

    def _split(self, zxbcdt: Tensor) -> List[Tensor]:
        """Gate and input of the MLP, gate of the scan, its input with B and C, step size."""
        paired, mixed = self.d_inner - self.d_ssm, self.conv1d.weight.shape[0]
        return list(zxbcdt.split([paired, paired, self.d_ssm, mixed, self.nheads], -1))

    def _parts(self, xbc: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        """(..., H P + 2 G S) -> (..., H, P), (..., G, S), (..., G, S)."""
        x, write, read = xbc.split([self.d_ssm, self.ngroups * self.d_state, self.ngroups * self.d_state], -1)
        groups = (self.ngroups, self.d_state)
        return x.unflatten(-1, (self.nheads, self.headdim)), write.unflatten(-1, groups), read.unflatten(-1, groups)

    def _finish(self, y: Tensor, z: Tensor, gate0: Tensor, x0: Tensor) -> Tensor:
        """Norm, the MLP's part, projection out."""
        y = self.norm(y, z) if self.rmsnorm else y * self.act(z)
        return self.out_proj(torch.cat([self.act(gate0) * x0, y], -1) if gate0.shape[-1] else y)

    def _generating(
        self, u: Tensor, seq_idx: Optional[Tensor], cu_seqlens: Optional[Tensor], inference_params: Any
    ) -> Tensor:
        batch = u.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
        conv_state, ssm_state = self._get_states_from_cache(inference_params, batch)
        if inference_params.seqlen_offset > 0:
            return self.step(u, conv_state, ssm_state)[0]
        gate0, x0, z, xbc, dt = self._split(self.in_proj(u))
        if cu_seqlens is None:
            conv_state.copy_(last_inputs(xbc, self.d_conv))
        else:
            conv_state.copy_(causal_conv1d_varlen_states(xbc.squeeze(0), cu_seqlens, self.d_conv))
        convolved = causal_conv1d_fn(
            xbc.transpose(1, 2), self.conv1d.weight[:, 0], self.conv1d.bias, seq_idx=seq_idx, activation=self.activation
        )
        x, write, read = self._parts(convolved.transpose(1, 2))  # type: ignore[union-attr]
        y, *states = mamba_chunk_scan_combined(
            x, dt, self._rate(), write, read, self.chunk_size, self._skip(), None, self.dt_bias, seq_idx=seq_idx,
            cu_seqlens=cu_seqlens, dt_softplus=True, dt_limit=self.dt_limit, return_final_states=True,
            return_varlen_states=cu_seqlens is not None,
        )  # fmt: skip
        ssm_state.copy_(states[-1])
        return self._finish(y.flatten(2), z, gate0, x0)

    def step(self, hidden_states: Tensor, conv_state: Tensor, ssm_state: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        """One token (B, 1, M): output (B, 1, M) and both states, which are changed in place."""
        if hidden_states.shape[1] != 1:
            raise ValueError(f"Mamba2.step: found {hidden_states.shape[1]} tokens, expected one at a time")
        gate0, x0, z, xbc, dt = self._split(self.in_proj(hidden_states[:, 0]))
        xbc = causal_conv1d_update(xbc, conv_state, self.conv1d.weight[:, 0], self.conv1d.bias, self.activation)
        x, write, read = self._parts(xbc)
        shape = (self.nheads, self.headdim)
        step = step_size(dt, self.dt_bias, True, self.dt_limit).unsqueeze(-1).expand(-1, *shape)
        rate = self._rate().view(-1, 1, 1).expand(*shape, self.d_state)
        skip = self._skip()
        skip = skip if skip.dim() == 2 else skip.unsqueeze(-1).expand(shape)
        y = selective_state_update(ssm_state, x, step, rate, write, read, skip)
        return self._finish(y.flatten(1), z, gate0, x0).unsqueeze(1), conv_state, ssm_state

    def _weight_dtypes(self) -> Tuple[torch.dtype, torch.dtype]:
        return self.conv1d.weight.dtype, self.in_proj.weight.dtype

    def _states(self, batch_size: int, conv_dtype: Any, ssm_dtype: Any) -> Tuple[Tensor, Tensor]:
        like, channels = self.out_proj.weight, self.conv1d.weight.shape[0]
        return (
            like.new_zeros(batch_size, self.d_conv, channels, dtype=conv_dtype).transpose(1, 2),
            like.new_zeros(batch_size, self.nheads, self.headdim, self.d_state, dtype=ssm_dtype),
        )
