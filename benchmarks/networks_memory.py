"""What a training step keeps for its backward pass: our networks against MONAI's, and against scans that permute and copy.

    python benchmarks/networks_memory.py [--roi 96] [--threads 1] [CASE ...]

No activation checkpointing on either side, batch 1, float32. Each network runs in a process of its own, forward and backward
on a small patch first, then once on the large one. `saved_bytes` are the tensors that autograd keeps, each storage counted once
and weights left out: it depends on the code and not on the machine. `growth_bytes` is how far the process's high-water mark of
resident memory rose in the step. A pair is compared only after both sides gave the same logits with the same weights.

Finished cases of the result are kept while the code is the same; writes benchmarks/results/networks_memory-cpu-DATE.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from contest import ask, high_water
from torch import Tensor, nn
from torch.nn import functional

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
ALLOWED = 1e-3  # largest difference of two sides' logits over the largest logit
CHECKED = 64  # voxels per axis of the comparison and of the first step; MONAI's instance norm refuses less
# case -> (ours, theirs): names of `make`
CASES = {
    "swin_unetr 24": ("swin_unetr 24", "monai 24"),
    "segmamba nano": ("segmamba nano", "permuted nano"),
    "segmamba mixer": ("mixer 24", "permuted-mixer 24"),
    "segmamba nano, fused": ("segmamba nano", "fused nano"),
    "segmamba published": ("segmamba published", "permuted published"),
}


def permuted_scan(self: Any, x: Tensor, context: Any) -> tuple[Tensor, Any]:
    """SegMamba's mixer as it is usually written: for every order a permuted copy, its own convolution, projections and scan.

    The scan itself is our compiled one along the raster, which keeps a state per 64 steps: a plain torch scan would keep 16
    times as much.
    """
    from medseg_kernels import selective_scan
    from medseg_kernels.traversals.orders import Traversal

    u, z = self.project_in(x).flatten(1, 3).chunk(2, dim=-1)
    total = torch.zeros_like(u)
    for index, text in enumerate(self.traversals):
        order, back = (getattr(Traversal.parse(text), name)(list(x.shape[1:4])) for name in ("order", "inverse"))
        channels, taps = self.taps.shape[1], self.taps.shape[2]
        row = functional.pad(u[:, order].transpose(1, 2), [taps - 1, 0])
        row = functional.silu(
            functional.conv1d(row, self.taps[index].unsqueeze(1), self.taps_bias[index], groups=channels)
        )
        tokens = row.transpose(1, 2).contiguous()[:, :, None, None]
        low, write, read = functional.linear(tokens, self.project_scan[index]).split(
            [self.rank, self.state, self.state], -1
        )
        y = selective_scan(
            tokens, functional.linear(low, self.project_dt[index]), -torch.exp(self.log_rate[index]), write, read,
            self.skip[index], delta_bias=self.step_bias[index], delta_softplus=True,
        )  # fmt: skip
        total = total + (y[:, :, 0, 0] * functional.silu(z[:, order]))[:, back]
    return self.project_out(total).reshape(x.shape), context


def fused_scan(self: Any, x: Tensor, context: Any) -> tuple[Tensor, Any]:
    """The thriftiest permuting form: copies for every order but the raster, each order as one op that recomputes its inside.

    The fused kernel of mamba-ssm keeps more than the op used here: its projections and its output before the gate as well.
    """
    from medseg_kernels import convolved_scan
    from medseg_kernels.traversals.orders import Traversal

    u, z = self.project_in(x).flatten(1, 3).chunk(2, dim=-1)
    total = torch.zeros_like(u)
    for index, text in enumerate(self.traversals):
        order, back = (getattr(Traversal.parse(text), name)(list(x.shape[1:4])) for name in ("order", "inverse"))
        tokens, gate = (t if text == "raster" else t[:, order] for t in (u, z))
        one = slice(index, index + 1)
        y = convolved_scan(
            tokens[:, :, None, None], gate[:, :, None, None], self.taps[one], self.taps_bias[one], self.project_scan[one],
            self.project_dt[one], -torch.exp(self.log_rate[one]), self.skip[one], self.step_bias[one],
        )  # fmt: skip
        total = total + y[:, back, 0, 0]
    return self.project_out(total).reshape(x.shape), context


def plain_block(self: Any, image: Tensor, skip: Tensor | None) -> Tensor:
    """MONAI's UNETR block: a concatenated copy, norms that keep their input, leaky ReLUs in place."""

    def norm(image: Tensor) -> Tensor:
        return functional.group_norm(image, image.shape[1])

    image = image if skip is None else torch.cat([image, skip], dim=1)
    branch = norm(self.conv2(functional.leaky_relu_(norm(self.conv1(image)), 0.01)))
    shortcut = image if isinstance(self.conv3, nn.Identity) else norm(self.conv3(image))
    return functional.leaky_relu_(branch.add_(shortcut), 0.01)


class Alone(nn.Module):
    """One of SegMamba's mixers behind a layer norm, on a grid of half the patch: its first stage without the convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        from medseg.networks.build_stage import StageBuilder
        from medseg.networks.contract import Site
        from medseg.networks.presets.scans import SEGMAMBA

        site = Site(width=width, num_heads=1, window_size=None, spatial_dims=3)
        self.width = width
        self.stage = StageBuilder(site, SEGMAMBA, None, [0.0]).stage(("selective_scan",))

    def forward(self, image: Tensor) -> Tensor:
        return self.stage(image[:, :, ::2, ::2, ::2].expand(-1, self.width, -1, -1, -1))


def make(name: str) -> nn.Module:
    """A network by the name used in `CASES`."""
    from medseg.networks import build_network

    torch.manual_seed(0)
    kind, size = name.split()
    if kind == "monai":
        from monai.networks.nets import SwinUNETR

        return SwinUNETR(in_channels=1, out_channels=2, feature_size=int(size))
    if kind.startswith(("permuted", "fused")):
        from medseg.networks.convolutions.unetr import UnetrBlock
        from medseg.networks.mixers.selective_scan import SelectiveScan

        SelectiveScan.forward = fused_scan if kind == "fused" else permuted_scan  # type: ignore[method-assign, assignment]
        UnetrBlock.eager = plain_block  # type: ignore[method-assign]
    if kind.endswith("mixer"):
        return Alone(int(size))
    if kind == "swin_unetr":
        return build_network(published=f"monai_swin_unetr_{size}")
    return build_network("segmamba" if kind in ("permuted", "fused") else kind, size=size, padding="published")


def step(network: nn.Module, roi: int) -> int:
    """Forward and backward on one patch; bytes that autograd kept."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    image = torch.randn(1, 1, roi, roi, roi, generator=torch.Generator().manual_seed(0))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = network(image)
    kept = sum(saved.values())
    logits.square().mean().backward()
    return kept


def measure(name: str, roi: int, threads: int) -> dict[str, int]:
    """One network in this process."""
    torch.set_num_threads(threads)
    network = make(name)
    step(network, min(CHECKED, roi))
    before = high_water()
    kept = step(network, roi)
    return {"saved_bytes": kept, "growth_bytes": high_water() - before}


def agreement(ours: str, theirs: str) -> float:
    """Largest difference of the logits with the same weights, over the largest logit.

    Raises:
        RuntimeError: the two sides compute different functions.
    """
    first, image = make(ours).eval(), torch.randn(1, 1, CHECKED, CHECKED, CHECKED)
    with torch.no_grad():
        found = first(image)
        second = make(theirs).eval()
        if theirs.startswith("monai"):
            from medseg.networks.imported.monai_swin_unetr import load_monai_swin_unetr
            from medseg.networks.network import SegmentationNetwork

            assert isinstance(first, SegmentationNetwork)
            load_monai_swin_unetr(first, second.state_dict())
            found = first(image)
        expected = second(image)
    difference = float((found - expected).abs().max() / expected.abs().max())
    if difference > ALLOWED:
        raise RuntimeError(
            f"{ours} and {theirs}: logits differ by {difference:.1e}, allowed {ALLOWED:.0e}: not compared"
        )
    return difference


def code() -> str:
    """Hash of the committed code that the figures depend on."""
    listed = subprocess.run(
        ["git", "ls-tree", "HEAD", "medseg/networks", "kernels/medseg_kernels"], capture_output=True, text=True, check=True,
        cwd=ROOT,
    )  # fmt: skip
    return " ".join(line.split()[2][:12] for line in listed.stdout.splitlines())


def run(cases: list[str], roi: int, threads: int, target: Path) -> None:
    """Measure what is missing, printing and saving after every case."""
    found = json.loads(target.read_text()) if target.exists() else {"rows": {}}
    same = found.get("code") == code() and found.get("roi") == roi
    rows: dict[str, Any] = found["rows"] if same else {}
    for case in cases:
        if case not in rows:
            ours, theirs = CASES[case]
            common = ["--roi", str(roi), "--threads", str(threads)]
            rows[case] = {
                "difference": ask(__file__, "--agreement", ours, theirs),
                "ours": ask(__file__, "--one", ours, *common),
                "theirs": {"name": theirs, **ask(__file__, "--one", theirs, *common)},
            }
        row = rows[case]
        shares = [row["ours"][key] / row["theirs"][key] for key in ("saved_bytes", "growth_bytes")]
        row["share_of_saved"], row["share_of_growth"] = (round(share, 3) for share in shares)
        print(
            f"{case:<20} ours {row['ours']['saved_bytes'] / 1e6:7.0f} MB, {row['theirs']['name']:<19}"
            f"{row['theirs']['saved_bytes'] / 1e6:7.0f} MB: {shares[0]:.2f} of it; resident {shares[1]:.2f}",
            flush=True,
        )
        about = {
            "command": "python benchmarks/networks_memory.py",
            "date": datetime.date.today().isoformat(),
            "device": platform.processor() or platform.machine(),
            "torch": torch.__version__,
            "commit": subprocess.run(
                ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=True, cwd=ROOT
            ).stdout.strip(),
            "code": code(), "roi": roi, "threads": threads, "batch": 1, "dtype": "float32", "gpu": "not measured on a GPU",
        }  # fmt: skip
        target.parent.mkdir(exist_ok=True)
        target.write_text(json.dumps({**about, "rows": rows}, indent=2) + "\n")


def main() -> int:
    """Parse words, run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help=f"any of: {', '.join(CASES)}; all without one")
    parser.add_argument("--roi", type=int, default=96)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--one", metavar="NETWORK", help="measure one network in this process, print JSON")
    parser.add_argument("--agreement", nargs=2, metavar="NETWORK", help="compare the logits of two, print JSON")
    args = parser.parse_args()
    act: Callable[[], Any] | None = None
    if args.one:
        act = lambda: measure(args.one, args.roi, args.threads)  # noqa: E731
    elif args.agreement:
        act = lambda: agreement(*args.agreement)  # noqa: E731
    if act is not None:
        print(json.dumps(act()))
        return 0
    unknown = [case for case in args.cases if case not in CASES]
    if unknown:
        parser.error(f"case: found {unknown[0]!r}, expected one of {', '.join(CASES)}")
    target = args.output or RESULTS / f"networks_memory-cpu-{datetime.date.today()}.json"
    run(args.cases or list(CASES), args.roi, args.threads, target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
