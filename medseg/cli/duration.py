"""Times on a command line: `2h`, `20m`, `90s`."""

from __future__ import annotations

import argparse
import re

SECONDS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


def parse_duration(text: str) -> float:
    """Seconds of `2h`, `20m`, `90s`, `90`.

    Example:
        >>> parse_duration("1.5h")
        5400.0
    """
    match = re.fullmatch(r"\s*([\d.]+)\s*([a-z]*)\s*", text.lower())
    if not match or match[2] not in SECONDS:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; expected such as 2h, 20m or 90s")
    seconds = float(match[1]) * SECONDS[match[2]]
    if seconds <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} leaves no time; expected such as 2h, 20m or 90s")
    return seconds
