"""Part 1: is it right? One case and dtype per process, ten at a time; they also fill the cache of compiled kernels."""

from __future__ import annotations

from typing import Any

import torch
from gpu_parts.special import SPECIALS

from tests.kernels.gpu_cases import CASES, DTYPES, TINY, GpuCase, check, wrong

# cases of a family that are tried; all of them are in tests/kernels/test_gpu.py
MOST = {"selective_scan": 8, "window_attention": 10, "gated_linear_recurrence": 16, "short_conv": 4, "stitch": 3}


def _chosen() -> list[GpuCase]:
    found = []
    for family, most in MOST.items():
        mine = [case for case in CASES if case.family == family]
        step = max(1, len(mine) // most)
        found += mine[::step][:most]
    return found


def jobs(dry: bool) -> list[dict[str, Any]]:
    """bf16 of everything first, then what only one op has to show, then float32 and float16."""
    if dry:  # one process for all
        return [{"name": "tiny cases", "seconds": 300}]
    listed = []
    for dtype in DTYPES:
        listed += [
            {
                "name": f"{case.family} {case.name} {str(dtype)[6:]}",
                "number": CASES.index(case),
                "dtype": str(dtype)[6:],
            }
            for case in _chosen()
        ]
        if dtype == torch.bfloat16:
            listed += [{"name": f"{family} {what}", "special": [family, what]} for family, what in SPECIALS]
    return [{**job, "seconds": 40, "parallel": 10} for job in listed]


def run(job: dict[str, Any], steps: Any, dry: bool, crops: Any) -> None:
    """A case, or a special."""
    if dry:
        for case in TINY:
            errors = check(case, torch.float32, "cpu", "reference")
            steps.add("correct", f"{case.family} {case.name}", wrong=wrong(errors, torch.float32), **errors)
        for (family, what), special in SPECIALS.items():
            if what in ("autocast", "side stream"):
                steps.add("correct", f"{family} {what}", **special("cpu"))
        return
    if "special" in job:
        steps.add("correct", job["name"], **SPECIALS[tuple(job["special"])]("cuda"))
        return
    dtype = getattr(torch, job["dtype"])
    errors = check(CASES[job["number"]], dtype, "cuda", "triton")
    steps.add("correct", job["name"], wrong=wrong(errors, dtype), worst=max(errors.values()), **errors)
