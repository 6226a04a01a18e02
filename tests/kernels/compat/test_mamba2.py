"""The module Mamba2: published names, every option, packed sequences, and steps that equal the whole."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from medseg_kernels.compat import UnknownOptionError
from medseg_kernels.compat.mamba_ssm import Mamba2
from medseg_kernels.compat.mamba_ssm.utils.generation import InferenceParams

from .recurrences import error, head_steps, taps

WIDTH = 12
SMALL = {"d_state": 6, "headdim": 4, "chunk_size": 8}


def made(**options: object) -> Mamba2:
    torch.manual_seed(0)
    module = Mamba2(WIDTH, **(SMALL | options))
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name == "D" or name.startswith("norm"):
                parameter.add_(0.3 * torch.randn_like(parameter))
    return module


def truth(m: Mamba2, u: Tensor) -> Tensor:
    mlp, mixed = m.d_inner - m.d_ssm, m.conv1d.weight.shape[0]
    gate0, x0, z, xbc, dt = m.in_proj(u).split([mlp, mlp, m.d_ssm, mixed, m.nheads], -1)
    xbc = taps(xbc.transpose(1, 2), m.conv1d.weight[:, 0], m.conv1d.bias, True).transpose(1, 2)
    x, B, C = xbc.split([m.d_ssm, m.ngroups * m.d_state, m.ngroups * m.d_state], -1)
    step = functional.softplus(dt + m.dt_bias).clamp(*m.dt_limit)
    D = m.D.view(m.nheads, m.headdim) if m.D_has_hdim else m.D
    y, _ = head_steps(
        x.unflatten(-1, (m.nheads, m.headdim)), step, -torch.exp(m.A_log), B.unflatten(-1, (m.ngroups, -1)),
        C.unflatten(-1, (m.ngroups, -1)), D,
    )  # fmt: skip
    y, gate = y.flatten(2), functional.silu(z)
    if m.rmsnorm:
        y = y if m.norm_before_gate else y * gate
        part = y.unflatten(-1, (m.ngroups, -1))
        y = (part / (part.square().mean(-1, keepdim=True) + 1e-5).sqrt()).flatten(-2) * m.norm.weight
    y = y * gate if m.norm_before_gate or not m.rmsnorm else y
    return m.out_proj(torch.cat([functional.silu(gate0) * x0, y], -1))


OPTIONS = [
    {}, {"ngroups": 2}, {"D_has_hdim": True}, {"rmsnorm": False}, {"norm_before_gate": True, "ngroups": 3},
    {"d_ssm": 16}, {"dt_limit": (0.01, 0.03)}, {"bias": True, "conv_bias": False}, {"conv_init": 0.2, "expand": 3},
    {"use_mem_eff_path": False, "d_conv": 3},
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_option_equals_the_recurrence_in_outputs_and_gradients(options: dict[str, object]) -> None:
    ours, wide = made(**options), made(**options).double()
    x, results = torch.randn(2, 21, WIDTH, dtype=torch.float64), []
    for call, module, dtype in ((ours, ours, torch.float32), (lambda t: truth(wide, t), wide, torch.float64)):
        given = x.to(dtype).requires_grad_()
        y = call(given)
        y.square().sum().backward()
        results.append({"y": y, "x": given.grad, **{name: p.grad for name, p in module.named_parameters()}})
    for name, right in results[1].items():
        assert error(results[0][name], right) < 1e-5, name


def test_parameters_have_the_published_names_and_sizes() -> None:
    shapes = {name: tuple(p.shape) for name, p in Mamba2(128).named_parameters()}
    assert shapes == {
        "dt_bias": (4,), "A_log": (4,), "D": (4,), "in_proj.weight": (2 * 256 + 2 * 128 + 4, 128),
        "conv1d.weight": (256 + 2 * 128, 1, 4), "conv1d.bias": (256 + 2 * 128,), "norm.weight": (256,),
        "out_proj.weight": (128, 256),
    }  # fmt: skip
    assert list(shapes)[:3] == ["dt_bias", "A_log", "D"]


def test_packed_sequences_equal_each_alone() -> None:
    module, x = made(), torch.randn(1, 20, WIDTH)
    seq_idx = torch.tensor([[0] * 7 + [1] * 13], dtype=torch.int32)
    torch.testing.assert_close(
        module(x, seq_idx=seq_idx), torch.cat([module(x[:, :7]), module(x[:, 7:])], 1), rtol=1e-4, atol=1e-5
    )
    flat = module(x.flatten(0, 1), seqlen=20)
    torch.testing.assert_close(flat, module(x)[0])


@pytest.mark.parametrize("options", [{}, {"d_ssm": 16, "rmsnorm": False}, {"D_has_hdim": True, "ngroups": 2}], ids=str)
def test_a_prompt_and_steps_equal_the_whole(options: dict[str, object]) -> None:
    module, x = made(layer_idx=0, **options), torch.randn(2, 9, WIDTH)
    with torch.no_grad():
        whole, params = module(x), InferenceParams(9, 2)
        outs = [module(x[:, :2], inference_params=params)]
        for t in range(2, 9):
            params.seqlen_offset = t
            outs.append(module(x[:, t : t + 1], inference_params=params))
    assert error(torch.cat(outs, 1), whole) < 1e-5


def test_packed_prompts_leave_the_states_of_their_ends() -> None:
    module, x, ends = made(layer_idx=0), torch.randn(1, 11, WIDTH), torch.tensor([0, 4, 11])
    numbers, packed = torch.tensor([[0] * 4 + [1] * 7]), InferenceParams(12, 2)
    with torch.no_grad():
        module(x, seq_idx=numbers, cu_seqlens=ends, inference_params=packed)
        for row, (i, j) in enumerate(((0, 4), (4, 11))):
            alone = InferenceParams(12, 1)
            module(x[:, i:j], inference_params=alone)
            for found, right in zip(packed.key_value_memory_dict[0], alone.key_value_memory_dict[0], strict=True):
                torch.testing.assert_close(found[row], right[0])


def test_what_is_not_known_is_refused_by_its_name() -> None:
    with pytest.raises(UnknownOptionError, match="Mamba2 has no option learnable_init_states"):
        Mamba2(WIDTH, learnable_init_states=True)
    with pytest.raises(UnknownOptionError, match="process_group"):
        Mamba2(WIDTH, headdim=4, process_group=object())
    with pytest.raises(ValueError, match="headdim=5"):
        Mamba2(WIDTH, headdim=5)
