"""The only way to the terminal: names from files and bundles cannot move its cursor, recolour it or turn its text round."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from typing import Any

from medseg.errors import printable

# What progress lines begin with: back to the start of the line, and clear it. Moving up is tqdm's, alone in its write.
REWRITE = re.compile(r"\A(?:\r|\x1b\[K)*")
MOVES = re.compile(r"\A[\n\r]*(?:\x1b\[A)*\Z")


class SafeStream:
    """A text stream that writes control characters as escapes; line ends, and what rewrites a progress line, stay."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        if not MOVES.match(text):
            begin = REWRITE.match(text)
            head = begin.group(0) if begin else ""
            text = head + printable(text[len(head) :], lines=True)
            encoding = getattr(self._stream, "encoding", None) or "utf-8"
            text = text.encode(encoding, "backslashreplace").decode(encoding)
        return int(self._stream.write(text) or 0)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class OneLine(logging.Formatter):
    """A record is one line, whatever stands in it; only a traceback has more."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))


@contextlib.contextmanager
def safe_screen() -> Iterator[None]:
    """Everything that is printed or logged in the block passes `printable`, also what libraries write."""
    before = sys.stdout, sys.stderr
    safe = [stream if stream is None or isinstance(stream, SafeStream) else SafeStream(stream) for stream in before]
    sys.stdout, sys.stderr = safe
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


# Libraries whose notes on themselves are no words of ours; their errors are raised, and told by the verb.
LIBRARIES = (
    "alembic", "ignite", "lightning_fabric", "matplotlib", "mlflow", "monai", "nvidia", "nvimgcodec", "onnx_ir", "onnxscript",
    "openvino", "pydicom", "pytorch_lightning", "torch", "torchmetrics",
)  # fmt: skip


def quiet_libraries() -> None:
    """Libraries say nothing below an error, and warn of nothing; MEDSEG_DEBUG shows it all."""
    if os.environ.get("MEDSEG_DEBUG"):
        return
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=rf"({'|'.join(LIBRARIES)})(\.|\Z)")


def log_to_screen(level: int) -> None:
    """Log lines go to stderr, each as one line."""
    quiet_libraries()
    root = logging.getLogger()
    if any(isinstance(handler.formatter, OneLine) for handler in root.handlers):  # a second command of one process
        root.setLevel(level)
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine("%(message)s"))
    logging.basicConfig(level=level, handlers=[handler])


def say(arguments: argparse.Namespace, facts: object, text: str) -> None:
    """A verb's result: `facts` as JSON with --json, else `text`, unless --quiet."""
    if arguments.json:
        print(json.dumps(facts))
    elif not arguments.quiet:
        print(text)
