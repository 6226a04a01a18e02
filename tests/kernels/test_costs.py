"""The GPU kernels as they are launched: what they cost by the table, and that they compile for every architecture. No GPU."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from tests.kernels.model import compiled
from tests.kernels.model.calls import FAMILIES
from tests.kernels.model.costs import TABLE, measured
from tests.kernels.model.launches import Launch, record

pytestmark = pytest.mark.skipif(
    compiled.why_not() is not None, reason=f"ahead-of-time compilation: {compiled.why_not()}"
)
WRITE = f"{sys.executable.rsplit('/', 1)[-1]} -m tests.kernels.model.costs write FAMILY writes the table anew"
FULL = ("sm_80", "sm_90", "sm_100", "gfx942")
BEFORE = TABLE.with_name("before.json")


def _table() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(TABLE.read_text())
    return found


QUICK = {"stitch", "short_conv", "window_attention"}  # the others take longer


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in FAMILIES]
)
def test_costs_keep_to_their_table(family: str) -> None:
    import triton

    table, found = _table(), measured(family, quick=True)
    for name, call in found.items():
        assert call["torch_kernels"] <= 3, f"{name} starts {call['torch_kernels']} kernels of torch; {WRITE}"
        for kernel, numbers in call["kernels"].items():
            if "attention" in family and kernel != "table_kernel":
                assert numbers["exp2"] <= 1.15, f"{name} {kernel}: work is done twice: {numbers['exp2']} exp2 a score"
        if table["triton"] == triton.__version__:  # another one compiles otherwise
            assert call == table["families"][family][name], f"{name} changed; {WRITE}"


def test_the_table_holds_the_gains_it_was_made_for() -> None:
    """Estimated microseconds of forward and backward before the kernels were rebuilt, over those of the table."""
    before, now = json.loads(BEFORE.read_text())["families"], _table()["families"]

    def gain(family: str, name: str) -> float:
        both = [f"{name} forward", f"{name} backward"]
        return float(
            sum(before[family][row]["microseconds"] for row in both)
            / sum(now[family][row]["microseconds"] for row in both)
        )

    assert gain("window_attention", "48^3 7^3 E16") >= 5
    assert gain("window_attention", "64^3 8^3 E16") >= 5
    for name, row in now["window_attention"].items():
        if name.startswith(("48^3 7^3 E16", "64^3 8^3 E16")):
            assert row["torch_kernels"] <= 3
    both = sum(now["window_attention"][f"48^3 7^3 E16 {way}"]["microseconds"] for way in ("forward", "backward"))
    assert both <= 1910 / 5  # MONAI's bytes at 4.3 TB/s
    # before counts neither its second and third loop nor the 275 kernels of torch of a recurrence
    assert gain("selective_scan", "64^3 C96 S16") >= 1.8
    assert gain("gated_linear_recurrence", "scalar K64") >= 1.2


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_aot_every_launch_compiles_on_every_architecture(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    for arch in FULL:
        monkeypatch.setattr(torch.version, "hip", "6.4" if arch.startswith("gfx") else None)
        seen: dict[str, Launch] = {}
        for call in FAMILIES[family]():
            seen |= {launch.key: launch for launch in record(call.run)[0]}
        for launch in seen.values():
            shared = int(compiled.compile_launch(launch, arch).metadata.shared)
            assert shared <= compiled.SHARED_LIMIT[arch], f"{launch.name} on {arch}: {shared} bytes shared"
