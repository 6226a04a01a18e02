"""What a user can get wrong, as one small family of exceptions.

The command line prints the message of a `MedsegError` on one line and exits with 1; anything else is a bug of ours
and keeps its traceback. Messages say what was found, what was expected, whose data, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# Where str.splitlines ends a line; a name in a message, taken from a file, may hold any of them.
_LINE_ENDS = {ord(end): f"\\u{ord(end):04x}" for end in "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"}


class MedsegError(ValueError):
    """Base of every error that the input, the configuration or the machine is the cause of; its text is one line."""

    def __str__(self) -> str:
        return super().__str__().translate(_LINE_ENDS)


class DataError(MedsegError):
    """A file or a dataset cannot be used as it is."""


class UnreadableFileError(DataError):
    """A file is missing, truncated, corrupt or of an unknown format."""


class GeometryError(DataError):
    """An affine or a grid makes no sense (singular, sheared, NaN, zero-length axis)."""


class GridMismatchError(GeometryError):
    """Two volumes that must share a grid do not."""


class LabelError(DataError):
    """A label map holds values that the dataset does not declare, or none at all."""


class ConfigError(MedsegError):
    """A configuration key or value is wrong."""


class BundleError(MedsegError):
    """A bundle is incomplete or contradicts itself."""


class UntrustedBundleError(BundleError):
    """A bundle wants to run code that is not on the allow-list, and `--trust` was not given."""


class ResourceError(MedsegError):
    """Not enough memory or disk."""


def printable(text: str, *, lines: bool = False) -> str:
    """Text for a screen, a picture or a page: what is not drawn as itself is written as an escape.

    Control characters (the terminal's commands begin with one), line ends, marks that turn the direction of text, and the
    halves of characters that undecodable file names hold.

    Args:
        lines: keep line ends and tabs, for text that is meant to have several lines.

    Example:
        >>> printable("liver\x1b[2J\u202e")
        'liver\\\\u001b[2J\\\\u202e'
    """
    if text.isprintable():
        return text
    kept = "\n\t" if lines else ""
    return "".join(
        letter
        if letter.isprintable() or letter in kept or letter in "\u00a0\u202f\u3000"
        else (f"\\u{ord(letter):04x}" if ord(letter) < 0x10000 else f"\\U{ord(letter):08x}")
        for letter in text
    )


def nearest(word: str, known: Iterable[str], *, count: int = 3) -> str:
    """Text for the end of a message: the closest known names, then all of them when the list is short.

    Example:
        >>> nearest("segmanba", ["segmamba", "swin_unetr"])
        'Did you mean segmamba? Known: segmamba, swin_unetr.'
    """
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=count, cutoff=0.6)
    hint = f"Did you mean {' or '.join(close)}? " if close else ""
    listing = f"Known: {', '.join(names)}." if len(names) <= 40 else f"{len(names)} names are known."
    return hint + listing
