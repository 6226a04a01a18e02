"""The GPU kernels as they are launched: what they cost by the table, and that they compile for every architecture. No GPU."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from tests.kernels.model import aot, compiled
from tests.kernels.model.calls import FAMILIES
from tests.kernels.model.costs import TABLE, measured, row
from tests.kernels.model.launches import record

pytestmark = pytest.mark.skipif(
    compiled.why_not() is not None, reason=f"ahead-of-time compilation: {compiled.why_not()}"
)
WRITE = f"{sys.executable.rsplit('/', 1)[-1]} -m tests.kernels.model.costs write FAMILY writes the table anew"
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
    for name, call in now["window_attention"].items():
        if name.startswith(("48^3 7^3 E16", "64^3 8^3 E16")):
            assert call["torch_kernels"] <= 3
    both = sum(now["window_attention"][f"48^3 7^3 E16 {way}"]["microseconds"] for way in ("forward", "backward"))
    assert both <= 1910 / 5  # MONAI's bytes at 4.3 TB/s
    # before counts neither its second and third loop nor the 275 kernels of torch of a recurrence
    assert gain("selective_scan", "64^3 C96 S16") >= 1.8
    assert gain("gated_linear_recurrence", "scalar K64") >= 1.2


@pytest.mark.parametrize("family", ["selective_scan", "gated_linear_recurrence"])
def test_launches_of_scan_and_recurrence_keep_to_their_table(family: str) -> None:
    """Every launch is counted; those of one forward are compiled and compared. Their estimates, which take longer, are slow tests."""
    import triton

    table = _table()
    calls = [call for call in FAMILIES[family]() if call.quick]
    for number, call in enumerate(calls):
        launches, torch_kernels = record(call.run)
        known = table["families"][family][call.name]
        assert torch_kernels == known["torch_kernels"] <= 3, f"{call.name}: {torch_kernels} kernels of torch; {WRITE}"
        assert len(launches) == known["launches"], f"{call.name} launches {[one.name for one in launches]}; {WRITE}"
        assert {one.name for one in launches} == set(known["kernels"]), f"{call.name} launches others; {WRITE}"
        if number > 0 or table["triton"] != triton.__version__:
            continue
        last = {one.name: one for one in launches}  # the table holds a kernel's last launch
        for name, launch in last.items():
            found = row(launch, compiled.read_code(launch), estimate=False)
            expected = {key: known["kernels"][name][key] for key in found}
            assert found == expected, f"{call.name} {name} changed; {WRITE}"


def test_aot_table_holds_every_family_on_every_architecture_within_its_shared_memory() -> None:
    table = json.loads(aot.TABLE.read_text())["families"]
    assert set(table) == set(FAMILIES)
    for family, architectures in table.items():
        assert set(architectures) == set(aot.ARCHITECTURES), family
        for arch, rows in architectures.items():
            assert rows
            assert not aot.too_large(rows, arch)
        launched = {launch.name for launch in aot.launches(family)}
        assert launched == set(architectures["sm_90"]), f"{family}: python -m tests.kernels.model.aot {family}"


@pytest.mark.slow
@pytest.mark.parametrize("arch", aot.ARCHITECTURES)
@pytest.mark.parametrize("family", FAMILIES)
def test_aot_every_launch_compiles_on_every_architecture(family: str, arch: str) -> None:
    assert aot.too_large(aot.compiled_for(family, arch), arch) == []
