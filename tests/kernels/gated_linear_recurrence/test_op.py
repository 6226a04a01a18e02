"""The registered op: opcheck, compilation, export, scripting, autocast, and the refusal of bad input."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from medseg_kernels import gated_delta_rule, gated_linear_recurrence, gla, mlstm, retention, ssd
from medseg_kernels.dispatch import BackendError
from medseg_kernels.gated_linear_recurrence.op import explain_backend, recurrence_op
from tests.kernels.gated_linear_recurrence.cases import error, gradients, make_case, rms_ratio


@pytest.mark.parametrize(("decay", "write"), [("none", "plain"), ("const", "gate"), ("vector", "delta")])
def test_opcheck(decay: str, write: str) -> None:
    case = make_case(decay, write, size_b=1, size_n=24, dtype=torch.float32)
    args = (
        case.q,
        case.k,
        case.v,
        case.g,
        case.beta,
        case.initial_state,
        None,
        [2, 3, 4],
        "snake",
        0.5,
        case.delta,
        None,
    )
    torch.library.opcheck(recurrence_op, args)


def test_opcheck_with_packed_pieces() -> None:
    case = make_case("scalar", "delta", size_b=1, size_n=24, dtype=torch.float32, pieces=[0, 10, 10, 24])
    pieces = torch.tensor(case.pieces)
    args = (case.q, case.k, case.v, case.g, case.beta, case.initial_state, pieces, [24], "", 0.5, True, "reference")
    torch.library.opcheck(recurrence_op, args)


class Members(torch.nn.Module):
    """A little of everything, over a grid."""

    def __init__(self, traversals: list[str]) -> None:
        super().__init__()
        self.traversals: list[str] = traversals

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        a, _ = gla(q, k, v, g, traversals=self.traversals)
        b, _ = gated_delta_rule(q, k, v, g, torch.sigmoid(g), traversals=self.traversals, merge="mean")
        c, _ = mlstm(q, k, v, g, -g, traversals=self.traversals)
        return a + b + c


def grid_inputs(grid: tuple[int, int, int] = (3, 4, 5), dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    random = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, *grid, 2, 8, generator=random, dtype=dtype) for _ in range(3))
    return q, torch.nn.functional.normalize(k, dim=-1), v, -torch.rand(1, *grid, 2, generator=random, dtype=dtype)


@pytest.mark.slow
def test_compiled_whole_and_for_any_size_with_gradients() -> None:
    model = Members(["snake", "reversed raster:ZYX"])
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    for grid in ((3, 4, 5), (4, 4, 3)):
        results = []
        for call in (model, compiled):
            leaves = [x.clone().requires_grad_() for x in grid_inputs(grid)]
            output = call(*leaves)
            results.append([output, *torch.autograd.grad(output.square().sum(), leaves)])
        for found, expected in zip(results[1], results[0], strict=True):
            assert error(found, expected) < 1e-5


@pytest.mark.slow
def test_compiled_by_inductor_with_gradients() -> None:
    model = Members(["snake"])
    results = []
    for call in (model, torch.compile(model, fullgraph=True, dynamic=True)):
        leaves = [x.clone().requires_grad_() for x in grid_inputs()]
        output = call(*leaves)
        results.append([output, *torch.autograd.grad(output.square().sum(), leaves)])
    for found, expected in zip(results[1], results[0], strict=True):
        assert error(found, expected) < 1e-5


def test_exported_graph_holds_no_op_of_ours() -> None:
    model, inputs = Members(["snake"]), grid_inputs()
    exported = torch.export.export(model, inputs)
    assert not [node for node in exported.graph.nodes if "medseg" in str(node.target)]
    assert error(exported.module()(*inputs), model(*inputs)) < 1e-5


def test_scripted_file_loads_where_this_package_is_not(tmp_path: Path) -> None:
    model, inputs = Members(["windowed:2,2,2", "heads(morton; raster)"]), grid_inputs()
    scripted = torch.jit.script(model)
    assert error(scripted(*inputs), model(*inputs)) < 1e-5
    torch.jit.save(scripted, tmp_path / "model.ts")
    torch.save((inputs, model(*inputs)), tmp_path / "data.pt")
    code = (
        "import sys, torch; sys.modules['medseg_kernels'] = None; sys.modules['medseg'] = None\n"
        "inputs, expected = torch.load('data.pt'); found = torch.jit.load('model.ts')(*inputs)\n"
        "assert (found - expected).abs().max() < 1e-4 * expected.abs().max()"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # sizes are meant to be constants of a trace
def test_traced_equals_eager() -> None:
    model, inputs = Members(["hilbert"]), grid_inputs()
    assert error(torch.jit.trace(model, inputs, check_trace=False)(*inputs), model(*inputs)) < 1e-5


def test_autocast_keeps_decays_and_states_in_float32() -> None:
    case = make_case("scalar", "delta", size_n=90, dtype=torch.float32)
    args = (case.q, case.k, case.v, case.g, case.beta)
    expected, _ = gated_linear_recurrence(*args)
    with torch.autocast("cpu", torch.bfloat16):
        found, state = gated_linear_recurrence(*args)
    assert found.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    assert rms_ratio(found, expected) < 5e-3


@pytest.mark.parametrize(
    ("decay", "write"), [("const", "plain"), ("scalar", "gate"), ("vector", "plain"), ("scalar", "delta")]
)
@pytest.mark.parametrize("backend", ["reference", None])
def test_bfloat16_outputs_and_gradients(decay: str, write: str, backend: str | None) -> None:
    case = make_case(decay, write, size_n=300, size_k=32, size_v=32)
    tokens = [x.detach().bfloat16().requires_grad_() for x in (case.q, case.k, case.v)]
    others = [None if x is None else x.detach().float().requires_grad_() for x in (case.g, case.beta)]
    half = [*tokens, *(x for x in others if x is not None)]
    exact = [x.detach().double().requires_grad_() for x in half]
    results = []
    for leaves in (half, exact):
        q, k, v, *rest = leaves
        named = dict(zip([n for n, x in zip(("g", "beta"), others, strict=True) if x is not None], rest, strict=True))
        gate = {"input_gate": named.pop("beta")} if write == "gate" else {}
        output, state = gated_linear_recurrence(q, k, v, **named, **gate, backend=backend)
        results.append([output, state, *gradients(output, state, leaves)])
    for found, expected in zip(*results, strict=True):
        assert rms_ratio(found, expected) < 5e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": torch.zeros(1, 5, 2, 9)}, "k has shape .*expected that of q"),
        ({"v": torch.zeros(1, 6, 2, 8)}, "v has shape"),
        ({"g": torch.zeros(1, 5)}, r"g \(log decay\) has shape .*expected one of"),
        ({"beta": torch.zeros(1, 5, 3)}, "beta has shape"),
        ({"initial_state": torch.zeros(2, 2, 8, 8)}, "initial_state has shape .*expected"),
        ({"g": torch.full((2,), 0.1)}, r"g \(log decay\) reaches 0.1; expected values <= 0"),
        ({"cu_seqlens": torch.tensor([0, 3, 2, 5])}, "cu_seqlens is .*never fall"),
        ({"cu_seqlens": torch.tensor([0, 4])}, "end at N = 5"),
        ({"traversals": ["raster"]}, "expected a grid"),
        ({"merge": "max"}, "expected sum, mean or concat"),
        ({"beta": torch.zeros(1, 5, 2), "input_gate": torch.zeros(1, 5, 2)}, "at most one"),
        ({"q": torch.zeros(1, 5, 2, 8, dtype=torch.long)}, "q has dtype torch.int64"),
        ({"backend": "cuda"}, "unknown backend 'cuda'"),
    ],
    ids=str,
)
def test_bad_input_is_named(change: dict, message: str) -> None:
    args = {name: torch.zeros(1, 5, 2, 8) for name in "qkv"}
    with pytest.raises(ValueError, match=message):
        gated_linear_recurrence(**{**args, **change})


def test_bad_input_of_members() -> None:
    x = torch.zeros(1, 5, 2, 8)
    with pytest.raises(ValueError, match="log_decay has shape"):
        retention(x, x, x, torch.zeros(1, 5, 2))
    with pytest.raises(ValueError, match="A has shape"):
        ssd(x, x[..., 0], torch.zeros(3), x, x)
    with pytest.raises(ValueError, match="groups that divide H"):
        ssd(x, x[..., 0], torch.zeros(2), torch.zeros(1, 5, 3, 8), torch.zeros(1, 5, 3, 8))


def test_non_finite_input_is_refused_under_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.zeros(1, 5, 2, 8)
    bad = x.clone()
    bad[0, 3, 1, 2] = float("nan")
    gated_linear_recurrence(x, bad, x)
    monkeypatch.setenv("MEDSEG_KERNELS_DEBUG", "1")
    with pytest.raises(ValueError, match="k holds 1 values of 80 that are NaN"):
        gated_linear_recurrence(x, bad, x)


def test_a_backend_asked_for_by_name_runs_or_says_why() -> None:
    x = torch.zeros(1, 5, 2, 8)
    with pytest.raises(BackendError, match="backend 'triton' cannot run here"):
        gated_linear_recurrence(x, x, x, backend="triton")
    with pytest.raises(BackendError, match="float64"):
        gated_linear_recurrence(x.double(), x.double(), x.double(), backend="cpu")
    assert "triton: no, " in explain_backend(x, x, x)


def test_empty_sequence() -> None:
    x = torch.zeros(2, 0, 2, 8, requires_grad=True)
    output, state = gated_linear_recurrence(x, x, x, torch.zeros(2, 0, 2))
    assert output.shape == (2, 0, 2, 8)
    (state.sum() + output.sum()).backward()
    assert x.grad is not None
