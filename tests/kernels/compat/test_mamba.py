"""The module Mamba: published names, every direction, and steps that equal the whole."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medseg_kernels.compat import UnknownOptionError
from medseg_kernels.compat.mamba_ssm import Mamba
from medseg_kernels.compat.mamba_ssm.utils.generation import InferenceParams

from .recurrences import error, inner_steps, scan_steps, taps

WIDTH, LENGTH = 10, 24
ONE = ("conv1d.weight", "conv1d.bias", "x_proj.weight", "dt_proj.weight", "dt_proj.bias")
NAMES = ("A_log", "D", "in_proj.weight", *ONE, "out_proj.weight")
BACK = ("A_b_log", "D_b", "conv1d_b.weight", "conv1d_b.bias", "x_proj_b.weight", "dt_proj_b.weight", "dt_proj_b.bias")
ACROSS = tuple(name.replace("_b_", "_s_").replace("_b.", "_s.").replace("D_b", "D_s") for name in BACK)
KINDS = {"none": (), "v1": ("A_b_log",), "v2": BACK, "v3": BACK + ACROSS}


def made(**options: object) -> Mamba:
    torch.manual_seed(0)
    module = Mamba(WIDTH, d_state=5, **options)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.startswith(("A_", "D")):
                parameter.add_(0.3 * torch.randn_like(parameter))
    return module


def parts(module: Mamba, suffix: str) -> dict[str, Tensor]:
    get = {name: getattr(module, f"{name}{suffix}") for name in ("conv1d", "x_proj", "dt_proj", "D")}
    return {
        "conv1d_weight": get["conv1d"].weight, "conv1d_bias": get["conv1d"].bias, "x_proj": get["x_proj"].weight,
        "dt_proj": get["dt_proj"].weight, "A": -torch.exp(getattr(module, f"A{suffix}_log")), "D": get["D"],
        "delta_bias": get["dt_proj"].bias, "delta_softplus": True,
    }  # fmt: skip


def truth(module: Mamba, x: Tensor) -> Tensor:
    """The published layers, by flips and stacks of copies, in float64."""
    xz, kind = module.in_proj(x).transpose(1, 2), module.bimamba_type
    if kind == "v1":
        return both_ways(module, xz)
    y = inner_steps(xz, **parts(module, ""))
    if kind in ("v2", "v3"):
        y = y + inner_steps(xz.flip(-1), **parts(module, "_b")).flip(-1)
    if kind == "v3":
        slices = torch.stack(xz.chunk(module.nslices, -1), -1).flatten(-2)
        across = inner_steps(slices, **parts(module, "_s"))
        y = y + across.unflatten(-1, (-1, module.nslices)).transpose(2, 3).flatten(-2)
    y = y / 2 if kind == "v2" and module.if_devide_out else y
    out = module.out_proj(y.transpose(1, 2))
    return out if module.init_layer_scale is None else out * module.gamma


def both_ways(module: Mamba, xz: Tensor) -> Tensor:
    x, z = xz.chunk(2, 1)
    v = taps(x, module.conv1d.weight[:, 0], module.conv1d.bias, silu=True)
    low, write, read = module.x_proj(v.transpose(1, 2)).transpose(1, 2).split([module.dt_rank, 5, 5], 1)
    step = torch.einsum("dk,bkl->bdl", module.dt_proj.weight, low)
    total = torch.zeros_like(x)
    for log, back in ((module.A_log, False), (module.A_b_log, True)):
        t = [p.flip(-1) if back else p for p in (v, step, write, read, z)]
        y, _ = scan_steps(
            t[0], t[1], -torch.exp(log), t[2], t[3], module.D, t[4], module.dt_proj.bias, delta_softplus=True
        )  # fmt: skip
        total = total + (y.flip(-1) if back else y)
    return module.out_proj(total.transpose(1, 2))


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_have_the_published_names_in_the_published_order(kind: str) -> None:
    names = [name for name, _ in Mamba(WIDTH, bimamba_type=kind).named_parameters()]
    assert set(names) == {*NAMES, *KINDS[kind]}
    own = [name for name in names if "." not in name]
    assert own == ["A_log", "D", *(n for n in KINDS[kind] if "." not in n)]


@pytest.mark.parametrize(
    "options",
    [
        {}, {"bias": True, "conv_bias": False}, {"expand": 3, "d_conv": 3, "dt_rank": 4}, {"dt_init": "constant"},
        {"use_fast_path": False}, {"bimamba_type": "v1"}, {"bimamba_type": "v2"},
        {"bimamba_type": "v2", "if_devide_out": True, "init_layer_scale": 0.1},
        {"bimamba_type": "v2", "if_divide_out": True}, {"bimamba_type": "v3", "nslices": 4},
        {"bimamba_type": "v3", "nslices": 6, "use_fast_path": False},
    ],
    ids=str,
)  # fmt: skip
def test_every_option_equals_the_recurrence_in_outputs_and_gradients(options: dict[str, object]) -> None:
    ours = made(**options)
    wide = made(**options).double()
    wide.load_state_dict(ours.state_dict())
    x = torch.randn(2, LENGTH, WIDTH, dtype=torch.float64)
    results = []
    for call, module, dtype in ((ours, ours, torch.float32), (lambda t: truth(wide, t), wide, torch.float64)):
        given = x.to(dtype).requires_grad_()
        y = call(given)
        y.square().sum().backward()
        results.append({"x": given.grad, **{name: p.grad for name, p in module.named_parameters()}, "y": y})
    for name, right in results[1].items():
        assert error(results[0][name], right) < 1e-5, name


def test_a_state_dict_goes_there_and_back() -> None:
    one, other = made(bimamba_type="v3"), Mamba(WIDTH, d_state=5, bimamba_type="v3")
    other.load_state_dict({name: value.clone() for name, value in one.state_dict().items()})
    x = torch.randn(1, 10, WIDTH)
    torch.testing.assert_close(one(x), other(x))


@pytest.mark.parametrize("prompt", [1, 2, 7])
def test_a_prompt_and_steps_equal_the_whole(prompt: int) -> None:
    module, x = made(layer_idx=3), torch.randn(2, 12, WIDTH)
    with torch.no_grad():
        whole = module(x)
        params = InferenceParams(max_seqlen=12, max_batch_size=2)
        outs = [module(x[:, :prompt], inference_params=params)]
        params.seqlen_offset = prompt
        for t in range(prompt, 12):
            outs.append(module(x[:, t : t + 1], inference_params=params))
            params.seqlen_offset += 1
    assert error(torch.cat(outs, 1), whole) < 1e-5
    conv, ssm = params.key_value_memory_dict[3]
    assert (conv.shape, ssm.shape) == ((2, 2 * WIDTH, 4), (2, 2 * WIDTH, 5))


def test_the_cache_is_zeros_in_the_dtype_that_is_asked_for() -> None:
    conv, ssm = made().allocate_inference_cache(3, 100, dtype=torch.bfloat16)
    assert (conv.shape, ssm.shape, conv.dtype) == ((3, 2 * WIDTH, 4), (3, 2 * WIDTH, 5), torch.bfloat16)
    assert not conv.any()


def test_marks_for_weight_decay_and_first_values_are_the_published_ones() -> None:
    module = Mamba(64, dt_min=0.01, dt_max=0.02)
    assert module.A_log._no_weight_decay
    assert module.D._no_weight_decay
    assert module.dt_proj.bias._no_reinit
    steps = torch.nn.functional.softplus(module.dt_proj.bias)
    assert 0.0099 < steps.min() < steps.max() < 0.0201
    torch.testing.assert_close(module.A_log[0], torch.arange(1.0, 17.0).log())


def test_16_bit_weights_run_and_autocast_keeps_rates_in_float32() -> None:
    x = torch.randn(1, 8, WIDTH)
    assert Mamba(WIDTH, dtype=torch.bfloat16)(x.bfloat16()).dtype == torch.bfloat16
    module = made(bimamba_type="v2")
    with torch.autocast("cpu", torch.bfloat16):
        y = module(x)
    assert y.dtype == torch.bfloat16
    assert error(y, module(x)) < 0.03


def test_an_exported_block_needs_none_of_our_operators() -> None:
    module, x = made(bimamba_type="v3", nslices=2).eval(), torch.randn(1, 8, WIDTH)
    program = torch.export.export(module, (x,))
    assert "medseg" not in str(program.graph)
    torch.testing.assert_close(program.module()(x), module(x), rtol=1e-4, atol=1e-5)


def test_what_is_not_known_or_does_not_fit_is_refused_by_its_name() -> None:
    with pytest.raises(UnknownOptionError, match="Mamba has no option rope=True"):
        Mamba(WIDTH, rope=True)
    with pytest.raises(TypeError, match="bimamba_type='v4'"):  # code that tries options catches TypeError
        Mamba(WIDTH, bimamba_type="v4")
    with pytest.raises(UnknownOptionError, match="dt_init='zeros'"):
        Mamba(WIDTH, dt_init="zeros")
    with pytest.raises(ValueError, match="sequence of 8 with nslices=5"):
        Mamba(WIDTH, bimamba_type="v3")(torch.randn(1, 8, WIDTH))
    params = InferenceParams(8, 1)
    with pytest.raises(UnknownOptionError, match="layer_idx"):
        Mamba(WIDTH)(torch.randn(1, 8, WIDTH), inference_params=params)
    with pytest.raises(UnknownOptionError, match="bimamba_type='v2'"):
        Mamba(WIDTH, layer_idx=0, bimamba_type="v2")(torch.randn(1, 8, WIDTH), inference_params=params)
    with pytest.raises(ValueError, match="found 2 tokens"):
        made().step(torch.randn(1, 2, WIDTH), *made().allocate_inference_cache(1, 2))
