"""A small encoder that uses mamba_ssm's fork as SegMamba does: three orders of the volume, as many slices as it has."""

from mamba_ssm import Mamba
from torch import nn


class MambaLayer(nn.Module):
    def __init__(self, dim, num_slices):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.mamba = Mamba(d_model=dim, d_state=16, d_conv=4, expand=2, bimamba_type="v3", nslices=num_slices)

    def forward(self, x):
        skip = x
        x = self.mamba(self.norm(x.flatten(2).transpose(-1, -2)))
        return x.transpose(-1, -2).reshape(skip.shape) + skip


class Gate(nn.Module):
    """Two ways through convolutions and a residual, before the scan."""

    def __init__(self, dim):
        super().__init__()
        self.one = nn.Sequential(nn.Conv3d(dim, dim, 3, 1, 1), nn.InstanceNorm3d(dim), nn.ReLU())
        self.two = nn.Sequential(nn.Conv3d(dim, dim, 1), nn.InstanceNorm3d(dim), nn.ReLU())

    def forward(self, x):
        return x + self.one(x) + self.two(x)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        stages = []
        for channels, before, slices in ((8, 1, 8), (16, 8, 4)):
            stages += [nn.Conv3d(before, channels, 2, 2), Gate(channels), MambaLayer(channels, slices)]
        self.stages = nn.Sequential(*stages)
        self.head = nn.ConvTranspose3d(16, 3, 4, 4)

    def forward(self, image):
        return self.head(self.stages(image))


IMAGE = (1, 1, 16, 12, 8)
SPATIAL = 3
