"""The ahead-of-time gate: compile GPU kernels without a GPU and hold registers, spills and shared memory to a table.

A kernel family lists what to compile in `tests/kernels/FAMILY/aot_specs.py`:

    SPECS = [Spec("forward_kernel", forward_kernel, {"u": "*bf16", "n": "i32", ...}, {"BLOCK": 32, ...}, num_warps=1), ...]
    EXCEPTIONS = {"backward_kernel windowed": "why it may spill"}      # at most two, with the bytes in the table

and tests it with `quick(FAMILY)` (sm_90 and gfx942) and, marked slow, `full(FAMILY)` (every architecture). The numbers live
in `tests/kernels/FAMILY/aot.json`; `python -m tests.kernels.aot FAMILY` writes them anew.
"""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

QUICK = ("sm_90", "gfx942")
FULL = ("sm_80", "sm_90", "sm_100", "gfx942")
# Bytes of shared memory a program may ask for: sm_86 has the least of the sm_8x, gfx942 has 64 KB of LDS.
SHARED_LIMIT = {"sm_80": 99 * 1024, "sm_90": 227 * 1024, "sm_100": 227 * 1024, "gfx942": 64 * 1024}


@dataclass(frozen=True)
class Spec:
    """One configuration of one kernel.

    Args:
        name: its row in the table.
        kernel: the triton.jit function.
        signature: triton type of every argument that is no constexpr, such as *bf16, i32, i64, fp32.
        constexprs: the others.
        aligned: arguments known to be multiples of 16; None stands for every pointer.
        num_warps: warps per program.
        num_stages: stages of loops that triton pipelines.
        everywhere: False for a configuration that only the full run compiles.
        only: the architectures it is launched on; None stands for all.
    """

    name: str
    kernel: Any
    signature: dict[str, str]
    constexprs: dict[str, Any]
    aligned: tuple[str, ...] | None = None
    num_warps: int = 4
    num_stages: int = 3
    everywhere: bool = field(default=True)
    only: tuple[str, ...] | None = None

    def runs_on(self, arch: str) -> bool:
        """Whether this configuration is launched on an architecture."""
        return self.only is None or arch in self.only


def why_not() -> str | None:
    """None when kernels can be compiled here, else the reason."""
    try:
        import triton
    except ImportError:
        return "triton is not installed"
    if triton.knobs.runtime.interpret:
        return "TRITON_INTERPRET is set in this process"
    return None if _tool("cuobjdump").exists() else "this triton carries no cuobjdump"


def _tool(name: str) -> Path:
    import triton

    return Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name


def _target(arch: str) -> Any:
    from triton.backends.compiler import GPUTarget

    return GPUTarget("cuda", int(arch[3:]), 32) if arch.startswith("sm_") else GPUTarget("hip", arch, 64)


def resources(spec: Spec, arch: str) -> dict[str, int]:
    """Compile one configuration: registers per lane, bytes spilled per lane, shared memory in bytes per program."""
    import triton
    from triton.compiler import ASTSource

    names = spec.kernel.arg_names
    missing = [name for name in names if name not in spec.signature and name not in spec.constexprs]
    assert not missing, f"{spec.name}: no type for {missing}"
    signature = {name: "constexpr" if name in spec.constexprs else spec.signature[name] for name in names}
    aligned = spec.aligned or tuple(name for name in names if signature[name].startswith("*"))
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in aligned if name in names}
    constants = {name: value for name, value in spec.constexprs.items() if name in names}
    source = ASTSource(fn=spec.kernel, signature=signature, constexprs=constants, attrs=attributes)
    options = {"num_warps": spec.num_warps, "num_stages": spec.num_stages}
    compiled = triton.compile(source, target=_target(arch), options=options)
    found = _read_amd(compiled.asm["amdgcn"]) if arch.startswith("gfx") else _read_cubin(compiled.asm["cubin"])
    return {**found, "shared_bytes": int(compiled.metadata.shared)}


def _read_cubin(cubin: bytes) -> dict[str, int]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(_tool("cuobjdump")), "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
    return {"registers": found["REG"], "spill_bytes": found["STACK"] + found["LOCAL"]}


def _read_amd(assembly: str) -> dict[str, int]:
    def number(name: str) -> int:
        return int(re.findall(rf"\.{name}:\s+(\d+)", assembly)[0])

    # scalar registers spill into lanes of vector registers, not to memory, so they do not count
    spilled = max(4 * number("vgpr_spill_count"), number("private_segment_fixed_size"))
    return {"registers": number("vgpr_count"), "spill_bytes": spilled}


def _table_path(family: str) -> Path:
    return Path(__file__).parent / family / "aot.json"


def _specs(family: str) -> Any:
    return importlib.import_module(f"tests.kernels.{family}.aot_specs")


def _check(family: str, specs: list[Spec], archs: tuple[str, ...]) -> None:
    import triton

    module, table = _specs(family), json.loads(_table_path(family).read_text())
    exceptions: dict[str, str] = getattr(module, "EXCEPTIONS", {})
    assert len(exceptions) <= 2, "at most two kernels may spill"
    same = table["triton"] == triton.__version__  # another version allocates otherwise: then only the limits count
    faults = []
    for spec in specs:
        for arch in filter(spec.runs_on, archs):
            found, expected = resources(spec, arch), table["kernels"].get(spec.name, {}).get(arch)
            if found["shared_bytes"] > SHARED_LIMIT[arch]:
                faults.append(
                    f"{spec.name} on {arch}: {found['shared_bytes']} bytes shared, limit {SHARED_LIMIT[arch]}"
                )
            if found["spill_bytes"] > 0 and spec.name not in exceptions:
                faults.append(f"{spec.name} on {arch}: spills {found['spill_bytes']} bytes")
            if same and found != expected:
                faults.append(f"{spec.name} on {arch}: found {found}, the table has {expected}")
    hint = f"Written anew by: python -m tests.kernels.aot {family}"
    assert not faults, "\n".join([*faults, hint])


def quick(family: str) -> None:
    """The configurations of `make test`: one per kernel, sm_90 and gfx942."""
    _check(family, [spec for spec in _specs(family).SPECS if spec.everywhere], QUICK)


def full(family: str) -> None:
    """Every configuration on every architecture (`make kernels-aot`)."""
    _check(family, _specs(family).SPECS, FULL)


def write(family: str) -> None:
    """Write the family's table."""
    import triton

    module = _specs(family)
    kernels = {spec.name: {arch: resources(spec, arch) for arch in filter(spec.runs_on, FULL)} for spec in module.SPECS}
    rows = ",\n".join(
        f"    {json.dumps(name)}: {{\n"
        + ",\n".join(f"      {json.dumps(arch)}: {json.dumps(numbers)}" for arch, numbers in row.items())
        + "\n    }"
        for name, row in kernels.items()
    )
    head = f'  "triton": {json.dumps(triton.__version__)},\n  "exceptions": {json.dumps(getattr(module, "EXCEPTIONS", {}))},'
    _table_path(family).write_text(f'{{\n{head}\n  "kernels": {{\n{rows}\n  }}\n}}\n')


if __name__ == "__main__":
    for name in sys.argv[1:]:
        write(name)
