"""The scan as an op: opcheck, compiled code, exported and scripted models that load where medseg is not installed."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from medseg_kernels import (
    selective_scan,
    selective_scan_fn,
    selective_scan_scriptable,
    selective_scan_with_state,
    short_conv,
)
from medseg_kernels.selective_scan.op import scan_op
from tests.kernels.saved_models import errors_elsewhere
from tests.kernels.selective_scan.cases import CASES, Case, error, leaves


class Mixer(nn.Module):
    """A small Mamba mixer: convolution, scan in three orders, gate."""

    def __init__(self, channels: int = 8, state: int = 4) -> None:
        super().__init__()
        self.channels, self.state = channels, state
        self.project = nn.Linear(channels, 2 * channels)
        self.taps = nn.Parameter(torch.randn(channels, 3) * 0.5)
        self.ssm = nn.Linear(channels, channels + 2 * state)
        self.rate = nn.Parameter(torch.zeros(channels, state))
        self.skip = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        u, z = self.project(x).chunk(2, dim=-1)
        u = short_conv(u, self.taps, silu=True)
        delta, write, read = self.ssm(u).split([self.channels, self.state, self.state], dim=-1)
        return selective_scan_scriptable(
            u, delta, -torch.exp(self.rate), write, read, self.skip, z, delta_softplus=True,
            traversals=["raster", "reversed snake:ZYX", "windowed:2,2,2:morton"],
        )  # fmt: skip


@pytest.fixture
def mixer() -> Mixer:
    torch.manual_seed(0)
    return Mixer().eval()


@pytest.mark.parametrize("case", [CASES[0], CASES[6], CASES[8]], ids=lambda case: case.name)
def test_op_keeps_its_contract(case: Case) -> None:
    torch.library.opcheck(scan_op, (*leaves(case.inputs()), *case.settings(), True, None))


def test_works_in_compiled_code_with_any_grid(mixer: Mixer) -> None:
    compiled = torch.compile(mixer, fullgraph=True, dynamic=True, backend="aot_eager")
    parameters = list(mixer.parameters())
    for grid in ((3, 4, 5), (2, 6, 3), (4, 1, 7)):
        x = torch.randn(2, *grid, 8)
        expected = mixer(x)
        assert error(compiled(x), expected.double()) < 1e-5
        wanted = torch.autograd.grad(expected.square().sum(), parameters)
        found = torch.autograd.grad(compiled(x).square().sum(), parameters)
        assert max(error(a, b.double()) for a, b in zip(found, wanted, strict=True)) < 1e-5


@pytest.mark.slow
def test_works_in_code_compiled_by_inductor(mixer: Mixer) -> None:
    x = torch.randn(2, 3, 4, 5, 8)
    compiled = torch.compile(mixer, fullgraph=True, dynamic=True)
    assert error(compiled(x), mixer(x).double()) < 1e-5
    compiled(x).square().sum().backward()
    assert all(parameter.grad is not None for parameter in mixer.parameters())


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # sizes are meant to be constants of a trace
def test_saved_models_load_where_medseg_is_not_installed(mixer: Mixer, tmp_path: Path) -> None:
    assert max(errors_elsewhere(mixer, (torch.randn(1, 4, 3, 5, 8),), tmp_path).values()) < 1e-5


def test_scripted_states_and_sequences_equal_eager_ones() -> None:
    u, rate = torch.randn(2, 6, 9), -torch.rand(6, 4)
    write = torch.randn(2, 4, 9)
    scripted = torch.jit.script(selective_scan_fn)
    eager = selective_scan_fn(u, u, rate, write, write, delta_softplus=True)
    assert error(scripted(u, u, rate, write, write, delta_softplus=True), eager.double()) < 1e-5
    x, b = torch.randn(1, 2, 3, 4, 6), torch.randn(1, 2, 3, 4, 4)
    added = torch.randn(7, 4)
    both = torch.jit.script(selective_scan_with_state)(x, x.abs(), rate, b, b, traversals=["snake"], step_write=added)
    expected = selective_scan_with_state(x, x.abs(), rate, b, b, traversals=["snake"], step_write=added)
    assert all(error(a, e.double()) < 1e-5 for a, e in zip(both, expected, strict=True))


def test_options_are_given_by_name_only() -> None:
    x, b, rate = torch.randn(1, 2, 2, 2, 3), torch.randn(1, 2, 2, 2, 2), -torch.rand(3, 2)
    with pytest.raises(TypeError, match="positional"):
        selective_scan(x, x, rate, b, b, None, None, None, True)  # type: ignore[misc]
    kinds = inspect.signature(selective_scan).parameters.values()
    named = [p.name for p in kinds if p.kind is inspect.Parameter.KEYWORD_ONLY]
    assert named[:6] == ["delta_softplus", "traversals", "merge", "initial_state", "return_last_state", "backend"]
    expected = selective_scan(x, x, rate, b, b, delta_softplus=True)
    assert torch.equal(selective_scan_scriptable(x, x, rate, b, b, delta_softplus=True), expected)


def test_gradients_reach_every_input_of_the_public_function() -> None:
    x, b = torch.randn(1, 2, 3, 2, 4), torch.randn(1, 2, 3, 2, 3)
    given = {
        "u": x, "delta": torch.randn(1, 2, 3, 2, 2), "A": -torch.rand(4, 3), "B": b, "C": b * 2, "D": torch.randn(4), "z": x * 3,
        "delta_bias": torch.randn(4), "initial_state": torch.randn(1, 2, 4, 3), "delta_weight": torch.randn(4, 2),
        "step_write": torch.randn(7, 3), "merge_weights": torch.randn(2),
    }  # fmt: skip
    given = {name: value.double().requires_grad_() for name, value in given.items()}

    def call(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        named = dict(zip(given, tensors, strict=True))
        return selective_scan_with_state(**named, delta_softplus=True, traversals=["raster", "snake"], merge="weights")

    assert torch.autograd.gradcheck(call, tuple(given.values()))
