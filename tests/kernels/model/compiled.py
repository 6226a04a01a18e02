"""Compiles a recorded launch without a GPU and reads what came out: registers, shared memory, the machine code of sm_90."""

from __future__ import annotations

import functools
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.kernels.model.launches import Launch

# Bytes of shared memory a program may ask for: sm_86 has the least of the sm_8x, gfx942 has 64 KB of LDS.
SHARED_LIMIT = {"sm_80": 99 * 1024, "sm_90": 227 * 1024, "sm_100": 227 * 1024, "gfx942": 64 * 1024}


@dataclass(frozen=True)
class Instruction:
    """One instruction of SASS with its control bits."""

    text: str
    stall: int  # cycles until the warp's next one
    write: int  # barrier that its result lifts, 7 for none
    read: int  # barrier that is lifted when its operands are read, 7 for none
    wait: int  # barriers to wait for, one bit each

    @property
    def code(self) -> str:
        """MUFU.EX2, LDG.E.64, ..."""
        return re.sub(r"^@!?U?P[0-9T]+\s+", "", self.text).split()[0]

    @property
    def base(self) -> str:
        """MUFU, LDG, ..."""
        return self.code.split(".")[0]


@dataclass(frozen=True)
class Code:
    """A compiled kernel: its instructions, its loops as pairs of first and last instruction, innermost first."""

    instructions: list[Instruction]
    labels: dict[str, int]
    registers: int
    spilled: int
    shared: int
    conversions: int  # changes of layout inside loops

    @functools.cached_property
    def loops(self) -> list[tuple[int, int]]:
        """Backward branches, the shortest first."""
        found = set()
        for at, one in enumerate(self.instructions):
            target = jump(one)
            if target is not None and self.labels.get(target, at + 1) <= at:
                found.add((self.labels[target], at))
        return sorted(found, key=lambda loop: loop[1] - loop[0])


def jump(one: Instruction) -> str | None:
    """Label that a branch goes to."""
    match = re.search(r"BRA(?:\.\w+)*\s+(?:!?U?P\d,\s*)?`\((\.L_x_\d+)\)", one.text)
    return match.group(1) if match else None


def why_not() -> str | None:
    """None when kernels can be compiled and read here, else the reason."""
    try:
        import triton
    except ImportError:
        return "triton is not installed"
    if triton.knobs.runtime.interpret:
        return "TRITON_INTERPRET is set in this process"
    missing = [name for name in ("cuobjdump", "nvdisasm") if not tool(name).exists()]
    return f"this triton carries no {missing[0]}" if missing else None


def tool(name: str) -> Path:
    """A program that triton brings along."""
    import triton

    return Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name


def compile_launch(launch: Launch, arch: str) -> Any:
    """Triton's compiled kernel for an architecture such as sm_90 or gfx942."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = launch.kernel.arg_names
    signature = {name: launch.signature.get(name, "constexpr") for name in names}
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in launch.aligned}
    source = ASTSource(fn=launch.kernel, signature=signature, constexprs=launch.constants, attrs=attributes)
    target = GPUTarget("cuda", int(arch[3:]), 32) if arch.startswith("sm_") else GPUTarget("hip", arch, 64)
    return triton.compile(source, target=target, options={"num_warps": launch.warps, "num_stages": launch.stages})


def read_code(launch: Launch) -> Code:
    """The launch's machine code on sm_90."""
    made = compile_launch(launch, "sm_90")
    size = usage(made.asm["cubin"])
    instructions, labels = _parse(_told(made.asm["cubin"], "nvdisasm", "-hex", "-c"))
    conversions = _conversions_in_loops(made.asm["ttgir"])
    spilled = size["STACK"] + size["LOCAL"]
    return Code(instructions, labels, size["REG"], spilled, int(made.metadata.shared), conversions)


def usage(cubin: bytes) -> dict[str, int]:
    """REG, STACK, LOCAL of a binary: registers, bytes of the stack, bytes spilled."""
    told = _told(cubin, "cuobjdump", "--dump-resource-usage")
    return {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", told)}


def _told(cubin: bytes, program: str, *options: str) -> str:
    """What one of triton's programs prints about a binary."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([tool(program), *options, file.name], capture_output=True, text=True, check=True).stdout


def _parse(sass: str) -> tuple[list[Instruction], dict[str, int]]:
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    text: str | None = None
    for line in sass.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label.group(1)] = len(instructions)
        elif first := re.match(r"\s*/\*[0-9a-f]{4,5}\*/\s+(.*?);\s+/\* 0x[0-9a-f]{16} \*/", line):
            text = first.group(1).strip()
        elif (second := re.match(r"\s*/\* 0x([0-9a-f]{16}) \*/", line)) and text is not None:
            bits = int(second.group(1), 16) >> 41
            instructions.append(Instruction(text, bits & 15, (bits >> 5) & 7, (bits >> 8) & 7, (bits >> 11) & 63))
            text = None
    return instructions, labels


def _conversions_in_loops(ttgir: str) -> int:
    """convert_layout operations that stand in a loop's body."""
    depth, loops, found = 0, [], 0
    for line in ttgir.splitlines():
        if " scf.for " in line or line.lstrip().startswith("scf.for"):
            loops.append(depth)
        if loops and "ttg.convert_layout" in line:
            found += 1
        depth += line.count("{") - line.count("}")
        while loops and depth <= loops[-1]:
            loops.pop()
    return found
