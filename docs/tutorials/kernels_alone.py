# %% [markdown]
# # The operators alone
#
# `medseg_kernels` needs torch and nothing of medseg. The same call runs a Triton kernel on a GPU and its compiled twin on a CPU, with
# gradients; without a compiler a chunked torch form.
# %%
import torch

from medseg_kernels import selective_scan_fn, window_attention

torch.manual_seed(0)
batch, channels, states, length = 1, 32, 8, 512
x, delta = torch.randn(batch, channels, length, requires_grad=True), torch.rand(batch, channels, length)
rate, write, read = (
    -torch.rand(channels, states),
    torch.randn(batch, states, length),
    torch.randn(batch, states, length),
)
y = selective_scan_fn(x, delta, rate, write, read, delta_softplus=True)
y.sum().backward()
print(tuple(y.shape), tuple(x.grad.shape))
# %% [markdown]
# The signature is mamba_ssm's. Step by step, the recurrence is $h_t = e^{\Delta_t A} h_{t-1} + \Delta_t B_t x_t$, $y_t = C_t h_t$:
# %%
step = torch.nn.functional.softplus(delta)
state, outputs = torch.zeros(batch, channels, states), []
with torch.no_grad():
    for t in range(length):
        decay = torch.exp(step[:, :, t, None] * rate)
        state = decay * state + step[:, :, t, None] * write[:, None, :, t] * x[:, :, t, None]
        outputs.append((state * read[:, None, :, t]).sum(-1))
print(f"largest difference: {(torch.stack(outputs, -1) - y).abs().max().item():.1e}")
# %% [markdown]
# Window attention on a grid that the window does not divide: nothing is rolled, partitioned or copied; padded keys are masked.
# %%
grid, heads, width = (10, 9, 7), 2, 16
qkv = torch.randn(1, *grid, 3, heads, width)
out = window_attention(qkv, (4, 4, 4), shift_size=(2, 2, 2))
print(tuple(out.shape))
# %% [markdown]
# In a MONAI network such an operator is a module's forward like any other.
# %%
from torch import nn


class WindowBlock(nn.Module):
    """Attention in windows on features (B, C, X, Y, Z)."""

    def __init__(self, channels: int, heads: int = 2) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.movedim(1, -1)
        qkv = self.qkv(tokens).unflatten(-1, (3, self.heads, -1))
        return x + self.out(window_attention(qkv, (4, 4, 4))).movedim(-1, 1)


from monai.networks.blocks import Convolution

model = nn.Sequential(Convolution(3, 1, 16), WindowBlock(16), Convolution(3, 16, 2))
print(tuple(model(torch.randn(1, 1, 12, 12, 12)).shape))
