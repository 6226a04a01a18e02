"""Every preset, nano, 3D, 32 voxels per axis: trains, compiles to one graph, exports, and traces at the patch's size."""

import pytest
import torch
from torch import Tensor, nn

from medseg.networks import PRESETS, build_network

ROI = (32, 32, 32)
# One preset per family of kernels that ahead-of-time compilation has to see.
FAMILIES = ["mambavision", "segmamba", "gated_deltanet_h2", "xlstm_unet", "fastervit", "gcvit", "cswin", "vir"]


def patch() -> Tensor:
    return torch.randn(1, 1, *ROI, generator=torch.Generator().manual_seed(1))


def gradients(call: nn.Module, network: nn.Module) -> list[Tensor]:
    """Gradients of a loss over the logits of `call`, which shares the parameters of `network`."""
    network.zero_grad()
    call(patch()).square().mean().backward()
    return [p.grad.clone() for p in network.parameters() if p.grad is not None]


def assert_same(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    """Largest difference over the largest gradient of all."""
    largest = max(float(value.abs().max()) for value in expected)
    for a, b in zip(found, expected, strict=True):
        assert (a - b).abs().max() <= tolerance * largest


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_compiled_to_one_graph_it_trains_alike(preset: str) -> None:
    torch._dynamo.reset()
    network = build_network(preset)
    expected = gradients(network, network)
    found = gradients(torch.compile(network, fullgraph=True, backend="aot_eager"), network)
    assert_same(found, expected, 1e-3)  # rounding moves a voxel or two across the kink of a ReLU


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_exported_and_traced_it_gives_the_same_logits(preset: str) -> None:
    network = build_network(preset).eval()
    with torch.no_grad():
        expected = network(patch())
        exported = torch.export.export(network, (patch(),)).module()(patch())
        torch.testing.assert_close(exported, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
        traced = torch.jit.trace(network, patch(), check_trace=False)
        torch.testing.assert_close(traced(patch()), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.slow
@pytest.mark.parametrize("preset", FAMILIES)
def test_inductor_trains_alike(preset: str) -> None:
    torch._dynamo.reset()
    network = build_network(preset)
    expected = gradients(network, network)
    assert_same(gradients(torch.compile(network), network), expected, 1e-3)
