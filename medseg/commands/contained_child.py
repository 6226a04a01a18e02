"""The child's side of `contained`: give up what is not needed, open the stranger's bundle, predict, tell events.

`begin`, `limit_memory` and `report` serve every such child.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

from medseg.bundle.opening.confine import close_network, die_with_parent, limit_addresses, write_no_core
from medseg.errors import MedsegError, UntrustedBundleError

log = logging.getLogger(__name__)


class Channel:
    """Events out on what was the standard output; answers in on the standard input. Prints go to the error stream."""

    def __init__(self) -> None:
        self.out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self.answers: queue.Queue[Any] = queue.Queue()
        self.lock = threading.Lock()

    def order(self) -> dict[str, Any]:
        """The first line: what to do."""
        return dict(json.loads(sys.stdin.buffer.readline()))

    def listen(self) -> None:
        """From now on read answers beside the work; when the parent is gone, so are we."""

        def read() -> None:
            while line := sys.stdin.buffer.readline():
                self.answers.put(json.loads(line))
            os._exit(1)

        threading.Thread(target=read, daemon=True).start()

    def tell(self, **event: object) -> None:
        with self.lock:
            self.out.write(json.dumps(event) + "\n")
            self.out.flush()

    def ask(self, shown: Any) -> None:
        """A question for the parent; its no ends this process."""
        self.tell(ask={"folder": str(shown.folder), "digest": shown.digest, "lines": list(shown.lines)})
        if self.answers.get() != {"consent": True}:
            raise UntrustedBundleError(f"{shown.folder}: not trusted, nothing was run")


def begin() -> tuple[Channel, dict[str, Any]]:
    """Take the order, and give up what a stranger's bundle needs not: call it first, while there is one thread."""
    channel = Channel()
    order = channel.order()
    die_with_parent(int(order["parent"]))
    write_no_core()
    logging.basicConfig(level=int(order["level"]), format="%(message)s", stream=sys.stderr)
    if not order["limits"]["network"]:
        why = close_network()
        if why:
            log.info("%s, so only Python's own connections are closed to the bundle", why)
    channel.listen()
    return channel, order


def main() -> None:
    """Runs one order and ends with exit code 0 when an event told how it went, else with that of the signal."""
    channel, order = begin()

    def predict() -> int:
        channel.tell(memory=limit_memory(order["request"]["asked"]["options"]["device"], order["limits"]["memory"]))
        _predict(order, channel)
        return 0

    report(predict, channel, str(order["request"]["bundle"]))


def report(work: Callable[[], int], channel: Channel, bundle: str) -> None:
    """Work, tell how it ended, and end the process."""
    try:
        channel.tell(end=work())
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)
    except MedsegError as error:
        channel.tell(error=[type(error).__name__, str(error)])
    except BaseException as error:
        if os.environ.get("MEDSEG_DEBUG"):
            traceback.print_exc()
        told = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
        channel.tell(error=["BundleError", f"{bundle}: {type(error).__name__}: {told}"])
    channel.out.flush()
    sys.stderr.flush()
    os._exit(0)  # threads of a stranger's are not waited for


def limit_memory(device: str, asked: int | None) -> int:
    """Load the libraries, then limit what the bundle may take beyond them; returns the most resident bytes."""
    import psutil
    import torch

    from medseg.devices import choose_device
    from medseg.inference.windows.memory import free_bytes

    memory = free_bytes(torch.device("cpu")) if asked is None else asked
    if choose_device(device).type == "cpu":
        limit_addresses(memory)  # CUDA reserves huge ranges: there the parent watches what is resident, as it does here
    return memory + int(psutil.Process().memory_info().rss)


def _predict(order: dict[str, Any], channel: Channel) -> None:
    from .asked import Asked
    from .predict import predict_here

    request = order["request"]
    trust = channel.ask if order["trust"] == "ask" else bool(order["trust"])
    predict_here(
        request["bundle"],
        request["inputs"],
        Asked.from_dict(request["asked"], trust),
        progress=lambda *facts: channel.tell(progress=facts),
        finished=lambda result, done, total: channel.tell(finished=[result.to_dict(), done, total]),
    )
