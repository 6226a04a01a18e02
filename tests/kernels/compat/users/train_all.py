"""Train the four small networks a few steps each: `python -m medseg_kernels.compat train_all.py STEPS` prints JSON lines."""

import json
import sys

import segmamba
import torch
import umamba
import vim
import vmamba

torch.set_num_threads(1)
for user in (umamba, segmamba, vim, vmamba):
    torch.manual_seed(0)
    net, image = user.Net(), torch.randn(user.IMAGE)
    label = (image[:, 0] > 0).long()
    optimizer, losses = torch.optim.AdamW(net.parameters(), lr=1e-2), []
    for _ in range(int(sys.argv[1])):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(image), label)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    silent = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    print(json.dumps({"user": user.__name__, "losses": losses, "without gradient": silent}))
