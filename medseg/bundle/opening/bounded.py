"""The functions that an expression may call: of numbers, texts and lists, each with a bounded result.

Data is None, bool, int, float, str, and lists, tuples and tables of data. Nothing here takes a callable, an object or a file.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Iterable
from typing import Any

MAX_BITS = 128  # of an integer
MAX_TEXT = 10_000  # characters of a text
MAX_ITEMS = 10_000  # of a list, lists inside it included


class GrammarError(ValueError):
    """An expression lies outside the language, or exceeds one of its limits; the message says why."""


def count(value: object) -> int:
    """Values in a bounded value, itself included."""
    total, waiting = 0, [value]
    while waiting:
        item = waiting.pop()
        total += 1
        if isinstance(item, (list, tuple)):
            waiting.extend(item)
        elif isinstance(item, dict):
            waiting.extend((*item, *item.values()))
    return total


def bounded(value: Any) -> object:
    """The value itself, when it is data within the limits; lists that are inside several times count each time.

    Raises:
        GrammarError: it is no data, or too large.
    """
    left, waiting = MAX_ITEMS, [value]
    while waiting:
        item = waiting.pop()
        left -= 1
        if left < 0:
            raise GrammarError(f"makes more than {MAX_ITEMS} values")
        kind = type(item)
        if kind is int and item.bit_length() > MAX_BITS:
            raise GrammarError("computes a number beyond the limit")
        if kind is str and len(item) > MAX_TEXT:
            raise GrammarError(f"makes a text of more than {MAX_TEXT} characters")
        if kind in (list, tuple):
            waiting.extend(_few(item))
        elif kind is dict:
            waiting.extend(_few(item))
            waiting.extend(item.values())
        elif kind not in (int, float, str, bool, type(None), slice):
            raise GrammarError("puts a component into an expression")
    return value


def _few(items: Any) -> Any:
    if len(items) > MAX_ITEMS:
        raise GrammarError(f"makes more than {MAX_ITEMS} values")
    return items


def _counted(*limits: int) -> list[int]:
    numbers = range(*limits)
    if not all(abs(limit) <= 1 << 62 for limit in limits) or len(numbers) > MAX_ITEMS:
        raise GrammarError(f"counts to more than {MAX_ITEMS}")
    return list(numbers)


def _total(items: Iterable[Any], start: object = 0) -> object:
    """Sum of numbers, or lists behind each other, in time that grows with what comes out."""
    if isinstance(start, (list, tuple)):
        joined: list[Any] = list(start)
        for item in _few(list(items)):
            if type(item) is not type(start):
                raise GrammarError(f"adds a {type(item).__name__} to a {type(start).__name__}")
            joined.extend(item)
            _few(joined)
        return type(start)(joined)
    return _folded(operator.add, start, items)


def _folded(operation: Callable[[Any, Any], Any], start: object, items: Iterable[Any]) -> object:
    total = start
    for item in (start, *_few(list(items))):
        if not isinstance(item, (int, float)):
            raise GrammarError("computes with something else than numbers")
    for item in items:
        total = bounded(operation(total, item))
    return total


def _rounded(value: float, digits: int = 0) -> float:
    if abs(digits) > 20:
        raise GrammarError("rounds to more than 20 digits")
    return round(value, digits) if digits else round(value)


def _integer(value: Any = 0) -> int:
    if isinstance(value, str) and len(value) > 30:
        raise GrammarError("reads a number of more than 30 characters")
    return int(value)


def _text(value: object = "") -> str:
    if not isinstance(value, (str, int, float, bool, type(None))):
        raise GrammarError("writes a list as text")
    return str(value)


def _joined(*parts: str) -> str:
    """`os.path.join` of the systems that bundles are written on: a later absolute part wins."""
    path = ""
    for part in parts:
        if not isinstance(part, str):
            raise GrammarError("joins something else than texts")
        path = part if part.startswith("/") or not path else path.rstrip("/") + "/" + part
    return path


def _needs_numbers(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def call(value: object) -> Any:
        if not isinstance(value, (int, float)):
            raise GrammarError("computes with something else than a number")
        return function(value)

    return call


# Full name -> what it means. Positional arguments only.
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": _needs_numbers(abs),
    "all": lambda items: all(_few(list(items))),
    "any": lambda items: any(_few(list(items))),
    "bool": bool,
    "float": lambda value=0.0: float(value if not isinstance(value, str) else value[:40]),
    "int": _integer,
    "len": len,
    "list": lambda items=(): list(_few(list(items))),
    "max": lambda *items: max(*items),
    "min": lambda *items: min(*items),
    "range": _counted,
    "reversed": lambda items: list(reversed(_few(items))),
    "round": _rounded,
    "sorted": lambda items: sorted(_few(list(items))),
    "str": _text,
    "sum": _total,
    "tuple": lambda items=(): tuple(_few(list(items))),
    "zip": lambda *lists: list(itertools.islice(zip(*lists, strict=False), MAX_ITEMS + 1)),
    "math.ceil": _needs_numbers(math.ceil),
    "math.floor": _needs_numbers(math.floor),
    "math.log2": _needs_numbers(math.log2),
    "math.prod": lambda items: _folded(operator.mul, 1, items),
    "math.sqrt": _needs_numbers(math.sqrt),
    "os.path.join": _joined,
}


def add(left: Any, right: Any) -> Any:
    """Sum of numbers, or two texts or lists behind each other."""
    return left + right


def multiply(left: Any, right: Any) -> object:
    """Product of numbers, or a text or list repeated.

    Raises:
        GrammarError: the result would be beyond the limits; it is not made.
    """
    for box, count in ((left, right), (right, left)):
        if isinstance(box, (str, list, tuple)) and isinstance(count, int) and len(box) * count > MAX_ITEMS:
            raise GrammarError(f"repeats a sequence to more than {MAX_ITEMS} items")
    return bounded(left * right)


def power(left: Any, right: Any) -> object:
    """`left ** right` of numbers.

    Raises:
        GrammarError: see `multiply`; or the result is no real number.
    """
    if isinstance(left, int) and isinstance(right, int) and abs(left).bit_length() * max(right, 0) > MAX_BITS:
        raise GrammarError("computes a power beyond the limit")
    return left**right


def remainder(left: Any, right: Any) -> object:
    """`left % right` of numbers; texts are not formatted.

    Raises:
        GrammarError: a text.
    """
    if isinstance(left, str):
        raise GrammarError("formats text with %")
    return left % right
