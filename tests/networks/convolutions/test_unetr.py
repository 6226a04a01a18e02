"""UNETR's residual block: the form that keeps few maps gives the numbers of the form made of modules."""

import pytest
import torch
from torch import Tensor

from medseg.networks.convolutions.unetr import UnetrBlock
from tests.networks.agreement import randomise, site

KINDS = {"one width": (6, 0), "other width": (4, 0), "with skip": (5, 3), "skip, width unchanged": (2, 4)}


def block(kind: str, dims: int, dtype: torch.dtype = torch.float64) -> UnetrBlock:
    made = randomise(UnetrBlock(site(6, dims=dims), sum(KINDS[kind]))).to(dtype)
    assert isinstance(made, UnetrBlock)
    return made


def inputs(kind: str, grid: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [torch.randn(2, width, *grid, dtype=dtype).add_(1).requires_grad_() for width in KINDS[kind] if width]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grid", [(4, 5, 3), (6, 7), (1, 7, 2)], ids=str)
def test_values_and_gradients_are_those_of_the_modules(grid: tuple[int, ...], kind: str) -> None:
    unit, given = block(kind, len(grid)), inputs(kind, grid)
    found, expected = unit(*given), unit.parts(torch.cat(given, dim=1))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    seed = torch.randn_like(found)
    wanted = [*given, *unit.parameters()]
    for a, b in zip(*(torch.autograd.grad(out, wanted, seed) for out in (found, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_float32_gradients_are_as_near_as_those_of_the_modules() -> None:
    unit, given = block("with skip", 3), inputs("with skip", (6, 5, 7))
    seed = torch.randn_like(unit(*given))
    exact = torch.autograd.grad(unit.parts(torch.cat(given, 1)), given, seed)
    narrow, small = unit.float(), [x.detach().float().requires_grad_() for x in given]
    for call in (narrow, lambda *x: narrow.parts(torch.cat(x, 1))):
        for a, b in zip(torch.autograd.grad(call(*small), small, seed.float()), exact, strict=True):
            assert (a.double() - b).abs().max() < 2e-5 * b.abs().max()


def test_frozen_weights_and_images_without_gradient_get_none() -> None:
    unit, (image, skip) = block("with skip", 3), inputs("with skip", (4, 4, 4))
    unit.conv1.requires_grad_(False)
    out = unit(image.detach(), skip)
    assert type(out.grad_fn).__name__ == "_KeepFewBackward"
    out.square().sum().backward()
    assert skip.grad is not None
    assert unit.conv2.weight.grad is not None
    assert unit.conv1.weight.grad is None
    wanted = torch.autograd.grad(unit.parts(torch.cat([image.detach(), skip], 1)).square().sum(), skip)[0]
    torch.testing.assert_close(skip.grad, wanted)


def test_under_autocast_the_modules_run() -> None:
    unit, given = block("with skip", 3, torch.float32), inputs("with skip", (4, 4, 4), torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = unit(*given), unit.parts(torch.cat(given, dim=1))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["one width", "with skip"])
def test_inputs_the_map_between_and_the_result_are_kept(kind: str) -> None:
    kept: dict[int, tuple[int, ...]] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.shape[2:] == (8, 8, 8):
            kept[tensor.untyped_storage().data_ptr()] = tuple(tensor.shape)
        return tensor

    unit, given = block(kind, 3), inputs(kind, (8, 8, 8))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        unit(*given)
    assert sorted(kept.values()) == sorted([*(tuple(x.shape) for x in given), (2, 6, 8, 8, 8), (2, 6, 8, 8, 8)])


@pytest.mark.parametrize("skip", [False, True])
def test_it_scripts_and_compiles_to_one_graph(skip: bool) -> None:
    kind = "with skip" if skip else "other width"
    unit, given = block(kind, 3, torch.float32), inputs(kind, (4, 4, 4), torch.float32)
    expected = unit(*given)
    torch.testing.assert_close(torch.jit.script(unit)(*given), expected)
    torch._dynamo.reset()
    found = torch.compile(unit, fullgraph=True, backend="aot_eager")(*given)
    torch.testing.assert_close(found, expected)
    for a, b in zip(*(torch.autograd.grad(y.square().sum(), given) for y in (found, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
