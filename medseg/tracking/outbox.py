"""What is to be recorded waits here until the store has taken it: a store that fails never stops or slows a training."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from medseg.config import read_json
from medseg.errors import MedsegError
from medseg.io.atomic import write_json

log = logging.getLogger(__name__)
LONGEST_PAUSE_S = 30.0


class ForgottenError(Exception):
    """The store does not know the run any more: everything is to be sent again."""


class RefusedError(Exception):
    """The store will never take this entry: it is dropped."""


@dataclass(frozen=True)
class Entry:
    """One thing to record, JSON-ready.

    Args:
        kind: `metrics`, `settings`, `file`, `json`, `results`, `monitor` or `end`.
        content: what the kind needs.
        at_ms: when it was said, in milliseconds since 1970.
    """

    kind: str
    content: dict[str, Any] = field(default_factory=dict)
    at_ms: int = field(default_factory=lambda: int(time.time() * 1000))


@dataclass(frozen=True)
class Patience:
    """How long the end of a run waits for its store, in seconds: one that fails, and one that is slow."""

    failing_s: float
    at_most_s: float


class Outbox:
    """A queue, and the thread that empties it.

    Args:
        send: records one entry; raises whatever the store raises.
        where: the store's name, for messages.
        kept: file for what could not be sent by the end; what an earlier process left there is sent first.
    """

    def __init__(self, send: Callable[[Entry], None], where: str, kept: Path | None) -> None:
        self.send, self.where, self.kept = send, where, kept
        self.pending: deque[Entry] = deque(_left_behind(kept))
        self.sent: list[Entry] = []
        self.reason = ""
        self._changed = threading.Condition()
        self._closing = False
        self._hurry = False
        self._thread: threading.Thread | None = None
        if self.pending:
            self._start()

    def put(self, entry: Entry) -> None:
        """Have something recorded; returns at once."""
        with self._changed:
            self.pending.append(entry)
            self._changed.notify_all()
            self._start()

    def flush(self, patience: Patience) -> bool:
        """Wait until everything is recorded, within limits; returns whether it is."""
        end = time.monotonic() + patience.at_most_s
        failing_since: float | None = None
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
            while self.pending and (now := time.monotonic()) < end:
                failing_since = (failing_since or now) if self.reason else None
                if failing_since is not None and now - failing_since > patience.failing_s:
                    break
                self._changed.wait(0.2)
            self._hurry = False
            return not self.pending

    def close(self, patience: Patience) -> bool:
        """`flush`, then write down what is left; returns whether nothing is."""
        done = self.flush(patience)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            left = list(self.pending)
        self._keep(left)
        return done

    def _start(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._closing = False
            self._thread = threading.Thread(target=self._work, name="medseg-tracking", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        pause = 1.0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self.pending or self._closing)
                if self._closing:
                    return
                entry = self.pending[0]
            try:
                self.send(entry)
            except ForgottenError:
                with self._changed:
                    self.pending.extendleft(reversed(self.sent))
                    self.sent.clear()
                continue
            except RefusedError as error:
                log.warning("%s refused an entry of the run's record: %s", self.where, error)
            except Exception as error:
                self._tell(error)
                with self._changed:
                    self._changed.wait_for(lambda: self._hurry or self._closing, timeout=pause)
                    if self._hurry:
                        self._changed.wait_for(lambda: self._closing, timeout=0.5)
                pause = min(2 * pause, LONGEST_PAUSE_S)
                continue
            pause = 1.0
            self._done(entry)

    def _done(self, entry: Entry) -> None:
        with self._changed:
            self.pending.popleft()
            self.sent.append(entry)
            if self.reason and not self.pending:
                log.info("%s takes the run's record again; nothing was lost", self.where)
                self.reason = ""
            self._changed.notify_all()

    def _tell(self, error: Exception) -> None:
        if not self.reason:
            log.warning(
                "%s does not take the run's record (%s); training goes on, and what is to be recorded waits",
                self.where, short(error),
            )  # fmt: skip
        self.reason = short(error)

    def _keep(self, left: list[Entry]) -> None:
        if self.kept is None:
            return
        try:
            if left:
                write_json(self.kept, [asdict(entry) for entry in left])
            else:
                self.kept.unlink(missing_ok=True)
        except (OSError, ValueError, MedsegError) as error:
            log.warning("what %s did not take could not be kept: %s", self.where, error)
            return
        if left:
            log.warning(
                "%d entries of the run's record could not be sent to %s (%s); they are kept in %s and sent with the next "
                "--resume", len(left), self.where, self.reason, self.kept,
            )  # fmt: skip


def _left_behind(kept: Path | None) -> list[Entry]:
    if kept is None or not kept.is_file():
        return []
    try:
        return [Entry(**row) for row in read_json(kept)]
    except (OSError, ValueError, TypeError) as error:
        log.warning("%s: cannot be read, and is left out of the run's record: %s", kept, error)
        return []


def short(error: BaseException) -> str:
    """An error as a few words: without the SQL and the links that database libraries add."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words.split(" [SQL:")[0].split(" (Background on")[0][:160]
