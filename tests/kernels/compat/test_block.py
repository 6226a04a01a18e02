"""mamba_ssm's Block adds before it norms, in both of its published forms."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from medseg_kernels.compat import UnknownOptionError
from medseg_kernels.compat.mamba_ssm import Mamba
from medseg_kernels.compat.mamba_ssm.modules.block import Block
from medseg_kernels.compat.norms import RMSNorm


@pytest.mark.parametrize("norm", [nn.LayerNorm, partial(RMSNorm, eps=1e-5)], ids=["layer", "rms"])
@pytest.mark.parametrize("with_mlp", [False, True])
def test_the_sum_is_normed_and_handed_on(norm, with_mlp: bool) -> None:
    torch.manual_seed(0)
    block = Block(8, Mamba, (lambda dim: nn.Linear(dim, dim)) if with_mlp else nn.Identity, norm_cls=norm)
    x, residual = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    hidden, total = block(x, residual)
    expected = x + residual
    y = block.mixer(block.norm(expected))
    if with_mlp:
        expected = expected + y
        y = block.mlp(block.norm2(expected))
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(hidden, y)


def test_version_1_gives_the_norm_in_the_place_of_the_mlp() -> None:
    block = Block(8, Mamba, nn.LayerNorm, residual_in_fp32=True)
    assert isinstance(block.norm, nn.LayerNorm)
    assert block.mlp is None
    _, total = block(torch.randn(1, 4, 8))
    assert total.dtype == torch.float32
    with pytest.raises(UnknownOptionError, match="drop_path"):
        Block(8, Mamba, drop_path=0.1)
    assert len(block.allocate_inference_cache(1, 4)) == 2
