"""A small block that uses the compiled extensions as VMamba does: four directions in one call, by an autograd function of its own."""

import torch
from torch import nn

WITH_OFLEX = WITH_CORE = WITH_MAMBA = True
try:
    import selective_scan_cuda_oflex
except ImportError:
    WITH_OFLEX = False
try:
    import selective_scan_cuda_core
except ImportError:
    WITH_CORE = False
try:
    import selective_scan_cuda
except ImportError:
    WITH_MAMBA = False


class SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u, delta, A, B, C, D, delta_bias, kind):
        ctx.kind = kind
        if kind == "oflex":
            out, x, *_ = selective_scan_cuda_oflex.fwd(u, delta, A, B, C, D, delta_bias, True, 1, True)
        elif kind == "core":
            out, x, *_ = selective_scan_cuda_core.fwd(u, delta, A, B, C, D, delta_bias, True, 1)
        else:
            out, x, *_ = selective_scan_cuda.fwd(u, delta, A, B, C, D, None, delta_bias, True)
        ctx.save_for_backward(u, delta, A, B, C, D, delta_bias, x)
        return out

    @staticmethod
    def backward(ctx, dout):
        u, delta, A, B, C, D, delta_bias, x = ctx.saved_tensors
        dout = dout if dout.stride(-1) == 1 else dout.contiguous()
        if ctx.kind == "mamba":
            grads = selective_scan_cuda.bwd(u, delta, A, B, C, D, None, delta_bias, dout, x, None, None, True, False)
        else:
            module = selective_scan_cuda_oflex if ctx.kind == "oflex" else selective_scan_cuda_core
            grads = module.bwd(u, delta, A, B, C, D, delta_bias, dout, x, True, 1)
        du, ddelta, dA, dB, dC, dD, ddelta_bias, *_ = grads
        return du, ddelta, dA, dB, dC, dD, ddelta_bias, None


class CrossScan(nn.Module):
    def __init__(self, dim, kind, state=8, rank=2):
        super().__init__()
        self.kind, self.state, self.rank = kind, state, rank
        self.x_proj = nn.Parameter(0.1 * torch.randn(4, rank + 2 * state, dim))
        self.dt_proj = nn.Parameter(0.1 * torch.randn(4, dim, rank))
        self.dt_bias = nn.Parameter(torch.full((4, dim), -3.0))
        self.A_logs = nn.Parameter(torch.arange(1.0, state + 1).log().repeat(4 * dim, 1))
        self.Ds = nn.Parameter(torch.ones(4 * dim))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x):
        batch, dim, rows, columns = x.shape
        rowwise, columnwise = x.flatten(2), x.transpose(2, 3).flatten(2)
        xs = torch.stack([rowwise, columnwise], 1)
        xs = torch.cat([xs, xs.flip(-1)], 1)  # (B, 4, D, L)
        dts, Bs, Cs = torch.einsum("bkdl,kcd->bkcl", xs, self.x_proj).split([self.rank, self.state, self.state], 2)
        dts = torch.einsum("bkrl,kdr->bkdl", dts, self.dt_proj)
        ys = SelectiveScan.apply(
            xs.flatten(1, 2), dts.flatten(1, 2).contiguous(), -self.A_logs.float().exp(), Bs.contiguous(), Cs.contiguous(),
            self.Ds.float(), self.dt_bias.flatten().float(), self.kind,
        ).view(batch, 4, dim, -1)  # fmt: skip
        ys = ys[:, :2] + ys[:, 2:].flip(-1)
        y = ys[:, 0] + ys[:, 1].view(batch, dim, columns, rows).transpose(2, 3).flatten(2)
        return self.norm(y.transpose(1, 2)).transpose(1, 2).view(x.shape)


class Net(nn.Module):
    def __init__(self, dim=8):
        super().__init__()
        kinds = ["oflex"] * WITH_OFLEX + ["core"] * WITH_CORE + ["mamba"] * WITH_MAMBA
        assert len(kinds) == 3
        self.embed = nn.Conv2d(1, dim, 4, 4)
        self.blocks = nn.ModuleList([CrossScan(dim, kind) for kind in kinds])
        self.head = nn.ConvTranspose2d(dim, 3, 4, 4)

    def forward(self, image):
        x = self.embed(image)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


IMAGE = (2, 1, 16, 24)
SPATIAL = 2
