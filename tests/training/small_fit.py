"""A training that takes a second: balls in noise, a network of two layers with stochastic depth, everything else as in `fit`.

Run as a program it is one of several processes, as torchrun starts them; the trainings are done one after the other.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medseg.errors import MedsegError
from medseg.losses import LOSSES
from medseg.losses.over_ranks import whole_batch
from medseg.networks.layers.common import DropPath
from medseg.networks.stages import ConvStage
from medseg.training.datamodule import SegmentationData, TrainingDataset, ValidationDataset
from medseg.training.fit import run_fit
from medseg.training.module import SegmentationModule
from medseg.training.trainer import make_trainer
from medseg.transforms.preprocessing import Preprocessing

LABELS = {0: "background", 1: "ball"}
ROI = (8, 8, 8)


class Block(nn.Module):
    def __init__(self, width: int, norm: str) -> None:
        super().__init__()
        # no bias: in front of a norm its gradient is rounding alone, which Adam makes steps of
        self.conv = nn.Conv3d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm3d(width) if norm == "batch" else nn.InstanceNorm3d(width, affine=True)
        self.drop = DropPath(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop(torch.tanh(self.norm(self.conv(x))))


class SmallNetwork(nn.Module):
    """Two scales, stochastic depth in every block, and on demand blocks that run again on the way back."""

    def __init__(self, *, norm: str = "instance", checkpointing: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv3d(1, 6, 3, padding=1)
        self.stage = ConvStage([Block(6, norm), Block(6, norm)], checkpointing=checkpointing)
        self.head, self.coarse = nn.Conv3d(6, 2, 1), nn.Conv3d(6, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.forward_scales(image)[0]

    def forward_scales(self, image: Tensor) -> list[Tensor]:
        x = self.stage(self.stem(image))
        return [self.head(x), self.coarse(nn.functional.avg_pool3d(x, 2))]


def train(root: Path, data: Path, *, cases: int = 4, validated: int = 3, resume: bool = False, **settings: Any) -> dict:
    """Train below `root`; what is no argument of the network, module, data or trainer is an error."""
    names = [f"ball_{number}" for number in range(cases)]
    listed = [
        {"image": str(data / "images" / f"{name}.nii.gz"), "label": str(data / "labels" / f"{name}.nii.gz")}
        for name in names
    ]
    prepared = Preprocessing(spacing=(1.0, 1.0, 1.0), normalization=[{"kind": "zscore"}])
    torch.manual_seed(3)
    network = SmallNetwork(norm=settings.pop("norm", "instance"), checkpointing=settings.pop("checkpointing", False))
    batch, steps = settings.pop("batch_size", 4), settings.pop("steps", 4)
    module = SegmentationModule(
        network, LABELS, _windows, loss=settings.pop("loss", "dice_ce"), learning_rate=0.01,
        schedule=settings.pop("schedule", "poly"), micro_batch_size=settings.pop("micro_batch_size", None),
    )  # fmt: skip
    training = TrainingDataset(
        prepared, LABELS, ROI, data=listed, samples_per_epoch=steps * batch, augmentation={"preset": "none"}
    )
    parts = SegmentationData(
        training, ValidationDataset(prepared, LABELS, data=listed[:validated]), batch_size=batch, num_workers=0
    )
    budget_s = settings.pop("budget_s", None)
    trainer = make_trainer(
        settings.pop("max_epochs", 2), bundle_root=str(root), device="cpu", tracking=False,
        precision=settings.pop("precision", "64-true"), **settings,
    )  # fmt: skip
    return run_fit(trainer, module, parts, bundle_root=str(root), resume=resume, budget_s=budget_s)


def _windows(image: Tensor, network: nn.Module) -> Tensor:
    """Every volume in one piece; `network` is asked as often as the volume is long, as windows would."""
    found: Tensor = network(image)
    return found


def weights(root: Path) -> dict[str, Tensor]:
    """What a training left."""
    return torch.load(root / "models" / "fold_0" / "model.pt", weights_only=True)


def start(jobs: Sequence[dict[str, Any]], *, processes: int = 2, **variables: str) -> list[subprocess.Popen[str]]:
    """Start processes as torchrun would, each doing all jobs: `train`'s arguments, `root` and `data` as text."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        **os.environ, "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0", "OMP_NUM_THREADS": "1", **variables,
    }  # fmt: skip
    command = [sys.executable, "-m", "tests.training.small_fit", json.dumps(list(jobs))]
    root = Path(__file__).parents[2]
    return [
        subprocess.Popen(
            command, cwd=root, env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}, text=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )
        for rank in range(processes)
    ]  # fmt: skip


def losses_of_rows(rank: int, processes: int) -> dict[str, tuple[Tensor, Tensor]]:
    """name -> loss, and the gradient at the rows of this process of logits of six samples, of every loss there is."""
    draw = torch.Generator().manual_seed(5)
    logits = torch.randn(6, 3, 6, 5, 4, generator=draw, dtype=torch.float64)
    target = torch.randint(-1, 3, (6, 1, 6, 5, 4), generator=draw)
    present = torch.tensor([[True, True, True], [True, False, True], [True, True, False]] * 2)
    undeclared = ~present.gather(1, target.flatten(1).clamp(min=0)).view(target.shape)
    target = target.masked_fill(undeclared, 0)
    rows = slice(rank, None, processes)
    found = {}
    for name, make in LOSSES.items():
        part = logits[rows].clone().requires_grad_()
        with whole_batch():
            loss = make()(part, target[rows], present[rows])
        loss.backward()
        assert part.grad is not None
        found[name] = loss.detach(), part.grad / processes  # what averaging over the processes makes of it
    return found


def main(jobs: Sequence[dict[str, Any]]) -> None:
    rank = int(os.environ["RANK"])
    for described in jobs:
        job = {key: value[rank] if key in described.get("by_rank", ()) else value for key, value in described.items()}
        root, data, refused = Path(job.pop("root")), job.pop("data", ""), job.pop("refused", False)
        job.pop("by_rank", None)
        root.mkdir(parents=True, exist_ok=True)
        if job.pop("losses", False):
            torch.save(losses_of_rows(rank, int(os.environ["WORLD_SIZE"])), root / f"{rank}.pt")
            continue
        try:
            train(root, Path(data), **job)
        except MedsegError as error:
            if not refused:
                raise
            (root / f"refused_{rank}.txt").write_text(str(error))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
