"""What the scenarios share: whole commands as forks of one process that has imported everything, small inputs, small networks.

A fork costs milliseconds where a fresh interpreter costs ten seconds of imports, so that twenty kills fit into a minute. Each
fork has its own streams, exit code and process group, and calls the command line's own `main`.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PRELOAD = (
    "torch", "monai.bundle", "pytorch_lightning", "mlflow", "medseg.cli.main", "medseg.cli.fit", "medseg.cli.plan",
    "medseg.cli.predict", "medseg.cli.evaluate", "medseg.commands.fit", "medseg.commands.plan", "medseg.commands.predict",
    "medseg.inference.predictor", "medseg.training.fit", "medseg.training.trainer", "medseg.tracking.mlflow_logger",
)  # fmt: skip


@dataclass
class Outcome:
    """What a scenario found.

    Attributes:
        counts: what was done, in numbers.
        faults: every break of the claim, in words; an empty list is what is asked for.
    """

    counts: dict[str, float] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def count(self, name: str, number: float = 1) -> None:
        self.counts[name] = self.counts.get(name, 0) + number

    def expect(self, condition: bool, fault: str) -> None:
        if not condition:
            self.faults.append(fault[:1500])


class Child:
    """A whole command line in a fork.

    Args:
        words: the command without the word medseg.
        log: folder for its streams.
        before: called in the fork first: delays, planted faults, limits.
    """

    def __init__(self, words: Sequence[str], log: Path, before: Callable[[], None] | None = None) -> None:
        self.out, self.err = log / "out.txt", log / "err.txt"
        log.mkdir(parents=True, exist_ok=True)
        sys.stdout.flush()
        sys.stderr.flush()
        self.started = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            self._run(list(words), before)
        self.code: int | None = None

    def _run(self, words: list[str], before: Callable[[], None] | None) -> None:
        code = 70
        try:
            os.setpgid(0, 0)
            for path, number in ((self.out, 1), (self.err, 2)):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            if before is not None:
                before()
            from medseg.cli.main import main

            sys.argv = ["medseg", *words]
            code = main()
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def running(self) -> bool:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
                self.seconds = time.monotonic() - self.started
        return self.code is None

    def wait(self, timeout_s: float = 300) -> Child:
        """Wait for its end; one that does not end is killed and gets the code -9."""
        deadline = time.monotonic() + timeout_s
        while self.running():
            if time.monotonic() > deadline:
                self.kill()
            time.sleep(0.003)
        return self

    def kill(self) -> None:
        """SIGKILL for the command and every process that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    @property
    def text(self) -> str:
        """What it wrote on stderr."""
        return self.err.read_text(encoding="utf-8", errors="replace")

    @property
    def errors(self) -> list[str]:
        """Lines of its stderr that begin as an error of ours does."""
        lines = (line.lstrip(" \0") for line in self.text.splitlines())  # torch's words of a crash end with a NUL
        return [line for line in lines if line.startswith("medseg: ")]


def preload() -> None:
    """Import what every command needs, and keep torch to one thread: a fork does not inherit threads."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name in PRELOAD:
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)
    _register_tiny()


def _register_tiny() -> None:
    """A network of a few thousand weights under the preset name `tiny`; the forks inherit it."""
    from medseg.networks.presets import PRESETS, Preset
    from medseg.networks.recipe import Level, NetworkSpec

    levels = (Level(4, ("residual",), stride=1), Level(8, ("residual",), stride=2))
    PRESETS["tiny"] = Preset(lambda size, dims: NetworkSpec(levels, drop_path=0.2), (), "of the tests", "none")


def make_data(folder: Path, cases: int = 4, shape: tuple[int, int, int] = (16, 16, 16)) -> Path:
    """A folder dataset of balls in noise."""
    from tests.volumes import make_case

    for number in range(cases):
        make_case(folder, f"ball_{number:04d}", shape=shape, radius=min(shape) / 4 + 0.2 * (number % 5), seed=number)
    return folder


def make_planned(folder: Path, data: Path) -> Path:
    """A planned bundle of the tiny network, without weights."""
    words = ["plan", "--data", str(data), "--output", str(folder), "--preset", "tiny", "--quiet"]
    ran = Child(words, folder.parent / "log")
    if ran.wait().code != 0:
        raise RuntimeError(ran.text)
    return folder


def make_predicting(folder: Path, data: Path) -> Path:
    """The same with weights, random but always the same."""
    import torch

    from medseg.bundle.load import load_bundle
    from medseg.bundle.weights import write_state_dict
    from medseg.layout import Layout

    make_planned(folder, data)
    torch.manual_seed(0)
    write_state_dict(Layout(folder).weights, load_bundle(folder).untrained_network().state_dict())
    return folder


def listens(pid: int) -> bool:
    """Whether a process has its own answers to signals; SIGUSR2 is the last that it takes over."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    caught = next((int(line.split()[1], 16) for line in lines if line.startswith("SigCgt")), 0)
    return bool(caught >> (signal.SIGUSR2 - 1) & 1)


def temporary_files(*folders: Path) -> list[str]:
    """Names of files and folders of ours in the making, below these folders."""
    return sorted(
        path.name
        for folder in folders
        if folder.exists()
        for path in folder.rglob("*")
        if path.name.startswith(".medseg-tmp")
    )


def broken_files(folder: Path) -> list[str]:
    """Files under final names that cannot be read whole, in words."""
    import torch

    from medseg.io.volume import read_label

    broken = []
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or ".medseg-tmp" in str(path):
            continue
        try:
            if path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
            elif path.suffix in (".pt", ".ckpt"):
                torch.load(path, map_location="cpu", weights_only=True)
            elif path.name.endswith(".nii.gz"):
                read_label(path)
            elif path.suffix == ".png":
                content = path.read_bytes()
                assert content.startswith(b"\x89PNG")
                assert content.endswith(b"IEND\xaeB`\x82")
            elif path.suffix == ".db":
                with contextlib.closing(sqlite3.connect(path)) as database:
                    assert database.execute("pragma integrity_check").fetchone()[0] == "ok"
        except Exception as error:
            broken.append(f"{path.name}: {type(error).__name__}: {error}"[:200])
    return broken


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def delayed_halves(seconds: float) -> Callable[[], None]:
    """For `Child`: every `torch.save` writes half of the file, waits, and writes the rest. Nothing else is changed."""

    def patch() -> None:
        import io

        import torch

        whole = torch.save

        def save(value: object, path: object) -> None:
            memory = io.BytesIO()
            whole(value, memory)
            content = memory.getvalue()
            with open(str(path), "wb") as file:
                file.write(content[: len(content) // 2])
                file.flush()
                time.sleep(seconds)
                file.write(content[len(content) // 2 :])

        torch.save = save

    return patch
