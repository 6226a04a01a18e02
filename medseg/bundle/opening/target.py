"""One row of the table of components: what it is used as, and its arguments with their kinds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .kinds import Kind


@dataclass(frozen=True)
class Target:
    """What an untrusted bundle may do with one target.

    Args:
        role: what the thing may be used as.
        arguments: by name; any other is refused.
        done: whether medseg builds it; if not, it opens and a part of ours stands in for it.
        callable: whether `_mode_: callable` may name it, without arguments.
    """

    role: str
    arguments: Mapping[str, Kind] = field(default_factory=dict)
    done: bool = True
    callable: bool = False


def allowed(role: str, **arguments: Kind) -> Target:
    """A target that is built with these arguments."""
    return Target(role, arguments)


def undone(role: str, **arguments: Kind) -> Target:
    """A target that reads, writes or runs: a bundle may name it, and medseg does its own instead."""
    return Target(role, arguments, done=False)
