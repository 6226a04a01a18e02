"""Run by test_stitch.py in a process of its own: the GPU kernels, by triton's interpreter, against the reference."""

from __future__ import annotations

import json

import torch

from medseg_kernels import NonFiniteLogitsError, axis_table, resample_argmax, stitch_labels, stitch_window

GRIDS = [(3, (7, 6, 5), (14, 9, 5)), (300, (2, 3, 4), (4, 5, 6)), (4, (1, 5, 3), (1, 13, 3)), (2, (1, 1, 1), (1, 1, 1))]
BACKENDS = ("triton", "reference")


def labels() -> dict[str, int]:
    """Voxels whose label is another one: a tie may be broken differently."""
    found = {}
    for classes, source, target in GRIDS:
        logits = torch.randn(classes, *source)
        for kind in (torch.float32, torch.float16):
            a, b = (resample_argmax(logits.to(kind), target, backend=name) for name in BACKENDS)
            found[f"{classes} {source} {kind}"] = int((a != b).sum())
        tables = [axis_table(n, m) for n, m in zip(source, target, strict=True)]
        a, b = (stitch_labels(logits.half(), None, *tables, rounded=True, backend=name) for name in BACKENDS)
        found[f"{classes} {source} rounded"] = int((a != b).sum())
    return found


def sums() -> bool:
    """Windows at several places, without and with an offset, add up to the same."""
    for kind in (torch.float32, torch.float16):
        made = []
        for name in BACKENDS:
            torch.manual_seed(1)
            values, weight = torch.zeros(3, 6, 7, 5, dtype=kind), torch.zeros(6, 7, 5)
            for start in ([0, 0, 0], [3, 2, 1], [4, 3, 1]):
                for offset in (None, torch.randn(4, 4, 4)):
                    window, share = torch.randn(3, 4, 4, 4), torch.rand(4, 4, 4) + 0.1
                    stitch_window(values, weight, window, share, start, offset=offset, backend=name)
            made.append((values, weight))
        for one, other in zip(*made, strict=True):
            torch.testing.assert_close(one, other)
    return True


def refused() -> bool:
    """NaN among the logits."""
    values, weight = torch.zeros(2, 3, 3, 3), torch.zeros(3, 3, 3)
    window = torch.full((2, 3, 3, 3), float("nan"))
    stitch_window(values, weight, window, torch.ones(3, 3, 3), [0, 0, 0], backend="triton")
    try:
        stitch_labels(values, weight, *[axis_table(3, 5)] * 3, backend="triton")
    except NonFiniteLogitsError:
        return True
    return False


if __name__ == "__main__":
    torch.manual_seed(0)
    print(json.dumps({"voxels of another label": labels(), "sums are close": sums(), "NaN is refused": refused()}))
