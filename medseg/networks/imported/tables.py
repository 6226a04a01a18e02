"""Tables from others' names of parameters to ours: pattern -> pattern, one line for every block of every stage.

A pattern is a name with places: `{s}` and other single letters stand for a number, longer words for the rest of the name. In
our pattern a number may be reckoned with: `{s:+2}` is two more, `{b:*2+1}` the odd number after its double.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rule:
    """One line of a table.

    Args:
        theirs: pattern of their names.
        ours: pattern of ours; None for what has no meaning here (tables that are computed, heads of a classifier).
        part: place among several of their entries that are one of ours, joined along the first axis.
        change: what is done to the values.
    """

    theirs: str
    ours: str | None
    part: int = 0
    change: Callable[[Tensor], Tensor] | None = None


class Converted(NamedTuple):
    """A state dict under our names.

    Fields:
        state: our name -> values.
        origin: our name -> their name (the first one of several).
        unknown: their names that no line of the table has.
    """

    state: dict[str, Tensor]
    origin: dict[str, str]
    unknown: list[str]


class Number(int):
    """An integer whose format says what is reckoned: `{:*2+1}`."""

    def __format__(self, spec: str) -> str:
        found = re.fullmatch(r"(?:\*(\d+))?([+-]\d+)?", spec)
        assert found is not None, spec
        return str(int(self) * int(found[1] or 1) + int(found[2] or 0))


def convert(rules: Sequence[Rule], state: Mapping[str, Tensor]) -> Converted:
    """Every entry of `state` by the first line that has its name."""
    compiled = [(re.compile(_expression(rule.theirs)), rule) for rule in rules]
    parts: dict[str, list[tuple[int, Tensor]]] = {}
    origin: dict[str, str] = {}
    unknown = []
    for name, value in state.items():
        found = next(((match, rule) for pattern, rule in compiled if (match := pattern.fullmatch(name))), None)
        if found is None:
            unknown.append(name)
            continue
        match, rule = found
        if rule.ours is None:
            continue
        words = {key: Number(text) if len(key) == 1 else text for key, text in match.groupdict().items()}
        new = rule.ours.format(**words)
        parts.setdefault(new, []).append((rule.part, value if rule.change is None else rule.change(value)))
        origin.setdefault(new, name)
    ours = {
        name: _join([value for _, value in sorted(found, key=lambda pair: pair[0])]) for name, found in parts.items()
    }
    return Converted(ours, origin, unknown)


def _join(values: list[Tensor]) -> Tensor:
    return values[0] if len(values) == 1 else torch.cat(values)


def _expression(pattern: str) -> str:
    """The regular expression of a pattern."""
    pieces = re.split(r"\{(\w+)\}", pattern)
    for index in range(0, len(pieces), 2):
        pieces[index] = re.escape(pieces[index])
    for index in range(1, len(pieces), 2):
        pieces[index] = f"(?P<{pieces[index]}>" + ("[0-9]+)" if len(pieces[index]) == 1 else r"[\w.]+)")
    return "".join(pieces)
