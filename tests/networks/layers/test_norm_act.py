"""The norm and leaky ReLU that keep their result only: the numbers of the two plain functions, and less kept."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from medseg.networks.layers.norm_act import NormLeakyReLU


def plain(image: Tensor, channels: int) -> Tensor:
    return functional.leaky_relu(functional.group_norm(image, channels), 0.01)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("grid", [(4, 5, 3), (6, 1), (1, 7, 2)], ids=str)
def test_value_and_gradient_are_those_of_the_two_functions(grid: tuple[int, ...], dtype: torch.dtype) -> None:
    image = (3 * torch.randn(2, 6, *grid, dtype=dtype) + 1).requires_grad_()
    found, expected = NormLeakyReLU(6)(image), plain(image, 6)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    seed = torch.randn_like(found)
    (a,), (b,) = (torch.autograd.grad(out, image, seed) for out in (found, expected))
    tolerance = 1e-12 if dtype == torch.float64 else 2e-5
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_channels_last_images_and_bfloat16_give_gradients_as_near_as_the_plain_form() -> None:
    image = torch.randn(2, 6, 4, 5, 3)
    exact = image.double().requires_grad_()
    seed = torch.randn(2, 6, 4, 5, 3)
    (expected,) = torch.autograd.grad(plain(exact, 6), exact, seed.double())
    turned = image.contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    (found,) = torch.autograd.grad(NormLeakyReLU(6)(turned), turned, seed)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)
    half = image.bfloat16().requires_grad_()
    errors = [
        (torch.autograd.grad(call, half, seed.bfloat16())[0].double() - expected).abs().mean()
        for call in (NormLeakyReLU(6)(half), plain(half, 6))
    ]
    assert errors[0] < 2 * errors[1] + 1e-3


def test_one_map_is_kept_instead_of_two() -> None:
    kept: set[int] = set()

    def keep(tensor: Tensor) -> Tensor:
        if tensor.numel() > 100:
            kept.add(tensor.untyped_storage().data_ptr())
        return tensor

    image = torch.randn(1, 6, 8, 8, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = NormLeakyReLU(6)(image * 1.0)
    assert kept == {out.untyped_storage().data_ptr()}
