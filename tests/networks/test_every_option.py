"""Options that every preset has, tried on every preset: small networks of slices and of volumes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp

from medseg.networks import PRESETS, build_network


def image(dims: int) -> Tensor:
    side = 48 if dims == 2 else 32
    return torch.randn(2 if dims == 2 else 1, 1, *[side] * dims, generator=torch.Generator().manual_seed(1))


def network_of(preset: str, dims: int, **options: bool) -> nn.Module:
    torch.manual_seed(0)
    return build_network(preset, spatial_dims=dims, **options)


def gradients(network: nn.Module, x: Tensor) -> list[Tensor]:
    torch.manual_seed(1)
    sum(scale.square().mean() for scale in network.forward_scales(x)).backward()  # type: ignore[operator, union-attr]
    return [p.grad for p in network.parameters() if p.grad is not None]


def assert_close(found: list[Tensor], expected: list[Tensor], tolerance: float = 1e-4) -> None:
    largest = max(float(value.abs().max()) for value in expected)
    for a, b in zip(found, expected, strict=True):
        assert (a - b).abs().max() <= tolerance * largest


@pytest.mark.parametrize("preset", PRESETS)
def test_checkpointing_changes_no_gradient(preset: str) -> None:
    assert_close(
        gradients(network_of(preset, 2, checkpointing=True).train(), image(2)),
        gradients(network_of(preset, 2).train(), image(2)),
    )


@pytest.mark.parametrize("preset", PRESETS)
def test_channels_last_weights_and_images_change_no_gradient(preset: str) -> None:
    """In float64: in float32 the sums of another order move a voxel or two across the kink of a ReLU."""
    x = image(2).double()
    expected = gradients(network_of(preset, 2).double().train(), x)
    network = network_of(preset, 2).double().train()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    found = gradients(network, x.contiguous(memory_format=torch.channels_last))
    assert_close(found, expected, 1e-5)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # with gradients


@pytest.mark.parametrize("preset", PRESETS)
def test_volumes_take_channels_last_and_every_other_move(preset: str) -> None:
    network = network_of(preset, 3)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    network.to(torch.float64).to(torch.float32)
    network.share_memory()
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert network.to("meta").to_empty(device="cpu").state_dict().keys() == before.keys()


@pytest.mark.parametrize("preset", PRESETS)
def test_a_tangent_through_a_network_is_right_or_refused(preset: str) -> None:
    network, x = network_of(preset, 2).double().eval(), image(2)[:1].double()
    state = {**dict(network.named_parameters()), **dict(network.named_buffers())}

    def call(x: Tensor) -> Tensor:
        return functional_call(network, state, (x,))

    direction = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(2))
    try:
        tangent = jvp(call, (x,), (direction,))[1]
    except (NotImplementedError, RuntimeError) as error:
        if "forward" in str(error) or "setup_context" in str(error):
            return
        raise
    step = 1e-6
    with torch.no_grad():
        right = (call(x + step * direction) - call(x - step * direction)) / (2 * step)
    torch.testing.assert_close(tangent, right, rtol=1e-3, atol=1e-4 * float(right.abs().max()))
