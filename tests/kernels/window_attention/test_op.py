"""The registered operator: torch's own checks, compile, export, scripting, bad input, and identities of the mathematics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medseg_kernels import window_attention, window_attention_with_carriers, window_grid
from medseg_kernels.dispatch import BackendError
from tests.kernels.saved_models import errors_elsewhere

WINDOW, SHIFT = [4, 4, 4], [2, 2, 2]


def inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """(qkv on an odd grid, bias table), both wanting gradients."""
    torch.manual_seed(0)
    qkv = torch.randn(1, 5, 6, 4, 3, 2, 8, dtype=dtype, requires_grad=True)
    return qkv, torch.randn(343, 2, dtype=dtype, requires_grad=True)


class Block(nn.Module):
    """The least module that calls the operator."""

    def forward(self, qkv: Tensor, table: Tensor) -> Tensor:
        return window_attention(qkv, [4, 4, 4], [2, 2, 2], table)


def test_opcheck() -> None:
    from medseg_kernels.window_attention.op import attention_op

    qkv, table = inputs()
    carriers = torch.randn(1, 4, 2, 3, 2, 8, requires_grad=True)
    options = (WINDOW, SHIFT, [-1, -1, -1], False, "block", "mask", "geometric", 0.3, 0.0, "")
    for extra in (None, carriers):
        result = torch.library.opcheck(attention_op, (qkv, None, None, extra, None, None, table, None, None, *options))
        assert set(result.values()) == {"SUCCESS"}


def test_compile_whole_graph_with_backward() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(Block(), fullgraph=True, dynamic=True, backend="aot_eager")
    for length in (5, 7):
        _, table = inputs()
        qkv = torch.randn(1, length, 6, 4, 3, 2, 8, requires_grad=True)
        found = torch.autograd.grad(compiled(qkv, table).square().sum(), (qkv, table))
        expected = torch.autograd.grad(Block()(qkv, table).square().sum(), (qkv, table))
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, expected, strict=True))


def test_export_script_and_trace_need_nothing_of_ours() -> None:
    qkv, table = (t.detach() for t in inputs())
    expected = Block()(qkv, table)
    exported = torch.export.export(Block(), (qkv, table))
    assert not any("medseg" in str(node.target) for node in exported.graph.nodes)
    traced = torch.jit.trace(Block(), (qkv, table))
    for form in (exported.module(), torch.jit.script(Block()), traced):
        assert torch.allclose(form(qkv, table), expected, atol=1e-5)


class Layer(nn.Module):
    """Every way to call the operator that a network has: shifted, stripes, a shared query, carriers, a learned bias."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(12, 36)
        self.table = nn.Parameter(torch.randn(7 * 7 * 7, 3))

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, [3, 3, 4])
        y = window_attention(
            qkv, [4, 4, 4], [2, 2, 2], self.table, pad_mode="input", pad_qkv=self.qkv.bias, bias_index="monai"
        )
        y = y + window_attention(qkv, [1, 1, 1], geometry="stripe")
        y = y + window_attention(qkv, [2, 2, 2], geometry="grid", causal=True, radius=[1, 1, 1])
        y = y + window_attention(qkv[:, :, :, :, 1:], [2, 2, 2], global_query=qkv[:, :2, :2, :2, 0])
        carriers = qkv[:, :2, 0, 0].unsqueeze(1).expand(-1, 12, -1, -1, -1, -1)
        tokens, extra = window_attention_with_carriers(qkv, carriers, [2, 2, 2])
        return y + tokens + extra.mean()


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # sizes are meant to be constants of a trace
def test_saved_models_load_where_medseg_is_not_installed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    assert max(errors_elsewhere(Layer(), (torch.randn(1, 5, 3, 4, 12),), tmp_path).values()) < 1e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window_size": [4, 4]}, "window_size is"),
        ({"window_size": [4, 0, 4]}, "window_size is"),
        ({"shift_size": [4, 0, 0]}, "shift_size is"),
        ({"bias_table": torch.zeros(342, 2)}, "shape of bias_table is"),
        ({"bias": torch.zeros(2, 64, 63), "bias_table": None}, "shape of bias is"),
        ({"pad_mode": "zeros"}, "pad_mode is"),
        ({"bias_index": "swin"}, "bias_index is"),
        ({"geometry": "hexagon"}, "geometry is"),
        ({"geometry": "grid"}, "shift_size is"),
        ({"dropout": 1.0}, "dropout is"),
        ({"radius": [1, 1]}, "radius is"),
        ({"pad_qkv": torch.zeros(3)}, "shape of pad_qkv is"),
        ({"sample_qkv": torch.zeros(2, 48)}, "shape of sample_qkv is"),
        ({"kv": torch.zeros(1)}, "number of grid axes is"),
        ({"qkv": torch.zeros(1, 5, 6, 4, 2, 2, 8)}, "shape of qkv is"),
        ({"qkv": torch.zeros(1, 5, 6, 4, 3, 2, 8, dtype=torch.int32)}, "dtype of qkv is"),
        ({"backend": "cuda"}, "unknown backend"),
    ],
    ids=str,
)
def test_bad_input_is_refused_with_found_and_expected(change: dict[str, Any], message: str) -> None:
    qkv, table = inputs()
    arguments = {"qkv": qkv, "window_size": WINDOW, "shift_size": SHIFT, "bias_table": table, **change}
    with pytest.raises(ValueError, match=message):
        window_attention(**arguments)


def test_a_backend_asked_for_by_name_never_falls_back() -> None:
    qkv, table = inputs()
    if not torch.cuda.is_available():
        with pytest.raises(BackendError, match="triton"):
            window_attention(qkv, WINDOW, SHIFT, table, backend="triton")


def test_permuted_axes_permute_the_result() -> None:
    qkv, table = (t.detach() for t in inputs())
    window, shift = [3, 4, 2], [1, 2, 0]
    table = torch.randn(5, 7, 3, 2)
    expected = window_attention(qkv, window, shift, table.reshape(-1, 2))
    turned = window_attention(
        qkv.permute(0, 3, 1, 2, 4, 5, 6), [2, 3, 4], [0, 1, 2], table.permute(2, 0, 1, 3).reshape(-1, 2)
    )
    assert torch.allclose(turned.permute(0, 2, 3, 1, 4), expected, atol=1e-5)


def test_depth_one_equals_two_dimensions() -> None:
    qkv, table = torch.randn(2, 6, 7, 3, 2, 8), torch.randn(49, 2)
    flat = window_attention(qkv, [4, 4], [2, 1], table)
    deep = window_attention(qkv.unsqueeze(3), [4, 4, 1], [2, 1, 0], table)
    assert torch.allclose(deep.squeeze(3), flat, atol=1e-6)


def test_window_over_the_grid_is_full_attention() -> None:
    qkv, _ = inputs()
    q, k, v = qkv.flatten(1, 3).permute(2, 0, 3, 1, 4)
    expected = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(1, 5, 6, 4, 16)
    assert torch.allclose(window_attention(qkv, 9, 3), expected, atol=1e-5)


def test_carriers_without_windows_in_common_stay_apart() -> None:
    window, counts = window_grid([8, 4, 4], [4, 4, 4])
    assert (window, counts) == ([4, 4, 4], [2, 1, 1])
    qkv, carriers = torch.randn(1, 8, 4, 4, 3, 2, 8), torch.randn(1, 2, 1, 3, 2, 8)
    before = window_attention_with_carriers(qkv, carriers, 4)
    carriers[:, 1] += 1.0
    after = window_attention_with_carriers(qkv, carriers, 4)
    assert torch.equal(before[0][:, :4], after[0][:, :4])
    assert not torch.allclose(before[0][:, 4:], after[0][:, 4:])


def test_dropout_keeps_the_mean_and_follows_its_seed() -> None:
    qkv = torch.randn(4, 8, 8, 8, 3, 2, 8)
    plain, seed = window_attention(qkv, 4), torch.tensor([3])
    dropped = [window_attention(qkv, 4, dropout=0.5, seed=seed + n) for n in (0, 0, 1)]
    assert torch.equal(dropped[0], dropped[1])
    assert not torch.equal(dropped[0], dropped[2])
    mean = torch.stack([window_attention(qkv, 4, dropout=0.5, seed=seed + n) for n in range(64)]).mean(0)
    assert (mean - plain).abs().mean() < 0.25 * (dropped[0] - plain).abs().mean()


def test_autocast_computes_in_its_type() -> None:
    qkv, table = inputs()
    with torch.autocast("cpu", torch.bfloat16):
        found = window_attention(qkv, WINDOW, SHIFT, table)
    assert found.dtype == torch.bfloat16
    found.float().sum().backward()
    assert qkv.grad is not None
    assert qkv.grad.dtype == torch.float32
    assert torch.allclose(found.float(), window_attention(qkv, WINDOW, SHIFT, table), atol=3e-2)
