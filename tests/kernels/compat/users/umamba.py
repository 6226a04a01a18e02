"""A small U-Net that uses mamba_ssm as U-Mamba does: Mamba on the flattened volume, in float32 whatever the autocast."""

import torch
from mamba_ssm import Mamba
from torch import nn


class MambaLayer(nn.Module):
    def __init__(self, dim, d_state=16, d_conv=4, expand=2):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.mamba = Mamba(d_model=dim, d_state=d_state, d_conv=d_conv, expand=expand)

    def forward(self, x):
        with torch.autocast("cpu", enabled=False):
            x = x.float()
            tokens = x.flatten(2).transpose(-1, -2)
            return self.mamba(self.norm(tokens)).transpose(-1, -2).reshape(x.shape)


class Net(nn.Module):
    """One level down and up; the scan stands at the bottom."""

    def __init__(self):
        super().__init__()
        self.down = nn.Sequential(nn.Conv3d(1, 8, 3, 2, 1), nn.InstanceNorm3d(8, affine=True), nn.LeakyReLU())
        self.mamba = MambaLayer(8)
        self.up = nn.ConvTranspose3d(8, 3, 2, 2)

    def forward(self, image):
        return self.up(self.mamba(self.down(image)))


IMAGE = (2, 1, 8, 12, 10)
SPATIAL = 3
