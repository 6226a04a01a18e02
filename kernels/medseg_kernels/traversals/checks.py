"""What a traversal may look like; every refusal names the argument, what was found and what was expected."""

from __future__ import annotations

from collections.abc import Sequence

from ..traversals.orders import Traversal


def wrong(argument: str, found: object, expected: object, op: str = "selective_scan") -> ValueError:
    """The refusal of one argument, in the words that every check of a scan uses."""
    return ValueError(f"{op}: {argument}: found {found}, expected {expected}")


def check_traversals(traversals: Sequence[str], channels: int) -> None:
    """Texts that parse, whose heads divide the channels and each other's number.

    Raises:
        ValueError: what is wrong.
    """
    if isinstance(traversals, str) or len(traversals) == 0:
        raise wrong("traversals", repr(traversals), "a list of at least one text")
    counts = [len(Traversal.parse(text).heads) for text in traversals]
    most = max(counts)
    if any(n not in (1, most) for n in counts):
        raise wrong("traversals", f"head counts {counts}", "one number of heads")
    if channels % most != 0:
        raise wrong("traversals", f"{most} heads", f"a number that divides {channels} channels")
