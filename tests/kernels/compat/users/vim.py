"""A small backbone that uses mamba_ssm's fork as Vim does: two-way blocks, a fused norm with its residual, a class token."""

from functools import partial

import torch
from mamba_ssm.modules.mamba_simple import Mamba
from mamba_ssm.utils.generation import GenerationMixin  # noqa: F401 - imported there too, for nothing
from mamba_ssm.utils.hf import load_config_hf, load_state_dict_hf  # noqa: F401
from torch import nn

try:
    from mamba_ssm.ops.triton.layernorm import RMSNorm, layer_norm_fn, rms_norm_fn
except ImportError:
    RMSNorm, layer_norm_fn, rms_norm_fn = None, None, None


class Block(nn.Module):
    def __init__(self, dim, mixer_cls, norm_cls):
        super().__init__()
        self.mixer = mixer_cls(dim)
        self.norm = norm_cls(dim)
        assert isinstance(self.norm, (nn.LayerNorm, RMSNorm))

    def forward(self, hidden, residual=None, inference_params=None):
        fused = rms_norm_fn if isinstance(self.norm, RMSNorm) else layer_norm_fn
        hidden, residual = fused(
            hidden, self.norm.weight, self.norm.bias, residual=residual, prenorm=True, residual_in_fp32=True, eps=self.norm.eps
        )  # fmt: skip
        return self.mixer(hidden, inference_params=inference_params), residual


def block(dim, index, rms):
    mixer = partial(
        Mamba, d_state=16, layer_idx=index, bimamba_type="v2", if_divide_out=True, init_layer_scale=None, device=None, dtype=None
    )  # fmt: skip
    norm = partial(nn.LayerNorm if not rms else RMSNorm, eps=1e-5, device=None, dtype=None)
    return Block(dim, mixer, norm)


class Net(nn.Module):
    def __init__(self, dim=16):
        super().__init__()
        self.embed = nn.Conv2d(1, dim, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, dim))
        self.layers = nn.ModuleList([block(dim, i, rms=i > 0) for i in range(2)])
        self.norm_f = RMSNorm(dim, eps=1e-5)
        self.head = nn.ConvTranspose2d(dim, 3, 4, 4)

    def forward(self, image):
        grid = self.embed(image)
        x, middle = grid.flatten(2).transpose(1, 2), grid[0, 0].numel() // 2
        x = torch.cat([x[:, :middle], self.token.expand(len(x), -1, -1), x[:, middle:]], 1)
        residual = None
        for layer in self.layers:
            x, residual = layer(x, residual)
        x = rms_norm_fn(
            x, self.norm_f.weight, self.norm_f.bias, eps=self.norm_f.eps, residual=residual, prenorm=False, residual_in_fp32=True
        )  # fmt: skip
        x = torch.cat([x[:, :middle], x[:, middle + 1 :]], 1)
        return self.head(x.transpose(1, 2).reshape(grid.shape))


IMAGE = (2, 1, 16, 24)
SPATIAL = 2
