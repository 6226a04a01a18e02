"""What a reader of data must not do, as Python's audit events tell it: write, connect, start, change, import, run, unpickle."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
FORBIDDEN = ("socket.", "subprocess.", "urllib.", "ftplib.", "smtplib.", "http.", "ctypes.dlopen", "pickle.find_class")
OWN_NAME = "socket.gethostname"  # asks nobody: it marks whose a temporary file is
STARTS = frozenset({"os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "os.spawn", "os.startfile"})
CHANGES = frozenset(
    f"os.{name}"
    for name in (
        "remove", "rename", "rmdir", "mkdir", "chmod", "chown", "link", "symlink", "truncate", "utime", "putenv", "unsetenv",
        "chflags", "setxattr", "removexattr", "chdir", "kill", "lockf",
    )
)  # fmt: skip
# what the readers themselves may load late; a bundle's words must not choose a module
MODULES = frozenset({
    "medseg", "monai", "torch", "numpy", "yaml", "safetensors", "jsonschema", "jsonschema_specifications", "referencing",
    "rpds", "attr", "attrs", "encodings", "ignite", "packaging", "typing_extensions",
})  # fmt: skip

# "<unknown>" is ast.parse, which runs nothing; the import system; methods that attrs makes when they are first called
MADE = ("<unknown>", "<frozen importlib", "<attrs generated")


class Watch:
    """Events that broke the rules while `watching`, one line each; `also` names further modules that may be loaded."""

    def __init__(self, also: frozenset[str] = frozenset()) -> None:
        self.modules = MODULES | also
        self.on = False
        self.place = ""
        self.broken: list[str] = []
        sys.addaudithook(self._hear)

    @contextmanager
    def watching(self, place: Path) -> Iterator[list[str]]:
        """Collect what is broken; files below `place` may be written and removed."""
        self.place, self.broken, self.on = f"{place}{os.sep}", [], True
        try:
            yield self.broken
        finally:
            self.on = False

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.on and self._breaks(event, arguments):
            self.on = False
            self.broken.append(f"{event} {str(arguments)[:200]}")
            self.on = True

    def _breaks(self, event: str, arguments: tuple[Any, ...]) -> bool:
        if event == "open":
            path, mode, flags = arguments
            writes = any(letter in str(mode or "") for letter in "wax+") or (flags or 0) & WRITING
            return bool(writes) and not self._ours(path)
        if event in CHANGES:
            paths = [path for path in arguments if isinstance(path, (str, bytes, os.PathLike))]
            numbers = [number for number in arguments if isinstance(number, int)]
            base = (
                os.readlink(f"/proc/self/fd/{numbers[-1]}") if numbers and self._is_folder(event, numbers[-1]) else ""
            )
            return not all(self._ours(os.path.join(base, os.fsdecode(path))) for path in paths[:2])
        if event == "import":
            root = str(arguments[0]).partition(".")[0]
            return root not in self.modules and root not in sys.stdlib_module_names
        if event in ("exec", "compile"):
            source = arguments[1] if event == "compile" else getattr(arguments[0], "co_filename", "<?>")
            return str(source).startswith("<") and not str(source).startswith(MADE)
        return (event.startswith(FORBIDDEN) and event != OWN_NAME) or event in STARTS

    @staticmethod
    def _is_folder(event: str, number: int) -> bool:
        """Whether an event's last number is the open folder that its path is relative to."""
        return (
            event in ("os.remove", "os.rmdir", "os.mkdir") and number > 2 and os.path.lexists(f"/proc/self/fd/{number}")
        )

    def _ours(self, path: Any) -> bool:
        if isinstance(path, int):
            return True  # a file that is open already: how it was opened has been judged
        return os.path.abspath(os.fsdecode(path) if isinstance(path, (bytes, os.PathLike)) else str(path)).startswith(
            self.place
        )
