"""Names with control characters do nothing to a terminal."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from pathlib import Path

import pytest

from medseg.cli.main import main
from medseg.cli.screen import OneLine, SafeStream, safe_screen
from medseg.errors import printable

# clear, title, C1 control, right-to-left override, isolate, line separator, delete, zero width, undecodable byte, tag
HOSTILE = [
    "\x1b[2J",
    "\x1b]0;x\x07",
    "\x9b2J",
    "\u202e",
    "\u2066",
    "\u2028",
    "\x7f",
    "\u200b",
    "\udcff",
    "\U000e0041",
    "\b",
]


@pytest.mark.parametrize("mark", HOSTILE)
def test_no_mark_reaches_the_screen(mark: str) -> None:
    stream = io.StringIO()
    print(f"case{mark}1", file=SafeStream(stream))
    assert stream.getvalue() == f"case{printable(mark)}1\n"
    assert stream.getvalue().removesuffix("\n").isprintable()
    print(f"{mark}1", file=SafeStream(stream))
    assert mark not in stream.getvalue()


def test_names_of_people_stay_as_they_are() -> None:
    for name in ("Müller Łukasz", "山田", "שלום", "e\u0301", "20 %\u00a0mm", "a\\b"):
        assert printable(name) == name
    assert printable("a\nb\tc\rd") == "a\\u000ab\\u0009c\\u000dd"
    assert printable("a\nb\tc\rd", lines=True) == "a\nb\tc\\u000dd"


def test_progress_lines_are_still_rewritten_and_only_from_their_beginning() -> None:
    stream = io.StringIO()
    safe = SafeStream(stream)
    safe.write("\r\x1b[Kcase1: window 1 of 2")
    safe.write("\n\x1b[A")
    assert stream.getvalue() == "\r\x1b[Kcase1: window 1 of 2\n\x1b[A"
    safe.write("case\r\x1b[Kspoofed\x1b[A")
    assert stream.getvalue().endswith("case\\u000d\\u001b[Kspoofed\\u001b[A")


def test_what_the_encoding_lacks_is_escaped_and_does_not_end_the_command() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", errors="strict")
    print("Müller", file=SafeStream(stream), flush=True)
    assert raw.getvalue() == b"M\\xfcller\n"


def test_a_log_record_is_one_line() -> None:
    record = logging.LogRecord("medseg", logging.INFO, "", 0, "%s: read", ("a\nmedseg: done\x1b[1m",), None)
    assert OneLine("%(message)s").format(record) == "a\\u000amedseg: done\\u001b[1m: read"


def test_everything_that_is_printed_passes() -> None:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), safe_screen():
        print("x\x1b[31m")
        sys.stderr.write("y\x1b[31m")
    assert "\x1b" not in out.getvalue() + err.getvalue()
    assert "x\\u001b[31m" in out.getvalue()


def test_error_of_a_command_names_hostile_files_safely(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    name = "scan\x1b[2J\u202e\nmedseg: all done"
    assert main(["predict", str(tmp_path / name), "-i", str(tmp_path / name)]) == 1
    printed = capfd.readouterr()
    assert "\x1b" not in printed.err + printed.out
    assert "\u202e" not in printed.err + printed.out
    assert len(printed.err.strip().splitlines()) == 1
