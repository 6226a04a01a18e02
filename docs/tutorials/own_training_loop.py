# %% [markdown]
# # A training loop of your own
#
# `build_network` gives a plain `torch.nn.Module`: nothing of Lightning, of a bundle or of a data set is needed. `network(image)` gives the
# logits; `network.forward_scales(image)` a list of them, the finest first, for deep supervision.
# %%
import torch

from medseg.losses import LOSSES
from medseg.networks import build_network

torch.manual_seed(0)
network = build_network("mambavision", spatial_dims=3, in_channels=1, out_channels=2, roi_size=[32, 32, 32])
print(sum(p.numel() for p in network.parameters()), "parameters;", sorted(LOSSES)[:4], "...")
# %% [markdown]
# A ball in noise, in a random place; the label is 1 inside.
# %%


def batch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    center = torch.randint(10, 22, (2, 3, 1, 1, 1), generator=random)
    places = torch.stack(torch.meshgrid(*[torch.arange(32)] * 3, indexing="ij"))
    label = ((places - center) ** 2).sum(1, keepdim=True) < 36
    return label + 0.5 * torch.randn(label.shape, generator=random), label.long()


loss_of = LOSSES["dice_ce"]()
optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
for step in range(30):
    image, label = batch(step)
    finest, *coarser = network.forward_scales(image)
    loss = loss_of(finest, label)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 10 == 0:
        print(f"step {step}: loss {loss.item():.3f}")
# %%
network.eval()
image, label = batch(1000)
with torch.inference_mode():
    found = network(image).argmax(1, keepdim=True)
dice = 2 * (found * label).sum() / (found.sum() + label.sum())
print(f"Dice on an unseen ball: {dice.item():.2f}")
