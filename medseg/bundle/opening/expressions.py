"""A `$` text is data (grammar.py), a known whole form (forms.py), an import statement, or refused."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .bounded import GrammarError
from .forms import Form, recognise
from .grammar import Clock, check_data, compute, imported_names, parse

MAX_LIVE = 10_000  # of one file: components, expressions, references, and the tables and lists that hold them


def walk(node: object, key: str = "", *, inert: Mapping[int, int] | None = None) -> Iterator[tuple[str, Any]]:
    """Every node of a configuration with its id, itself first.

    Args:
        node: where to begin.
        key: its id.
        inert: see `inert_nodes`; those that it names, and plain values, are left out with all that is in them.
    """
    if inert is not None and (id(node) in inert or is_plain(node)):
        return
    yield key, node
    if isinstance(node, Mapping):
        children: Any = node.items()
    elif isinstance(node, list):
        children = enumerate(node)
    else:
        return
    for step, child in children:
        yield from walk(child, f"{key}::{step}" if key else str(step), inert=inert)


def is_plain(value: Any) -> bool:
    """Whether a value stands for itself: a number, or a text that is neither a reference nor an expression."""
    kind = type(value)
    return not value.startswith(("@", "$", "%")) if kind is str else kind in (int, float, bool, type(None))


def is_step(name: object) -> bool:
    """Whether a key, or an index, can be a step of an id."""
    return isinstance(name, int) or (isinstance(name, str) and bool(name) and "#" not in name and "::" not in name)


def inert_nodes(config: object) -> dict[int, int]:
    """`id()` of each table and list in which all values stand for themselves -> number of values in it, itself included."""
    found: dict[int, int] = {}

    def look(node: object) -> int:
        if isinstance(node, Mapping):
            children, still = node.values(), "_target_" not in node and all(map(is_step, node))
        elif isinstance(node, list):
            children, still = node, True  # type: ignore[assignment]
        else:
            return int(is_plain(node))
        total = 1
        for child in children:
            size = look(child)
            still, total = still and size > 0, total + size
        if still:
            found[id(node)] = total
        return total if still else 0

    look(config)
    return found


def import_aliases(config: Mapping[str, Any], clock: Clock, inert: Mapping[int, int]) -> dict[str, str]:
    """Local name -> full name, from every `$import` of a file; statements that are refused are left out here."""
    aliases: dict[str, str] = {}
    for number, (_, node) in enumerate(walk(config, inert=inert)):
        if clock.over or number > MAX_LIVE:
            break
        if isinstance(node, str) and node.startswith("$") and "import" in node:
            try:
                with clock:
                    aliases.update(imported_names(parse(node[1:])))
            except GrammarError:
                continue
    return aliases


def judged(expression: str, aliases: Mapping[str, str]) -> tuple[ast.expr | None, tuple[Form, dict[str, Any]] | None]:
    """The tree of an expression of data, or the form that it has; neither for an import statement.

    Raises:
        GrammarError: it is none of these; names the first thing that is not allowed.
    """
    try:
        tree = parse(expression)
        if isinstance(tree, (ast.Import, ast.ImportFrom)):
            imported_names(tree)
            return None, None
        if not isinstance(tree, ast.expr):
            raise GrammarError(f"is a statement ({type(tree).__name__})")
        form = recognise(tree, aliases)
        if form is None:
            check_data(tree, aliases)
        return tree, form
    except RecursionError as error:
        raise GrammarError("is nested too deeply") from error


def check(expression: str, *, aliases: Mapping[str, str] | None = None) -> None:
    """Refuse an expression that no untrusted bundle may hold, without computing anything.

    Args:
        expression: the text after `$`.
        aliases: local name -> full name, from the import statements of the same file.

    Raises:
        GrammarError: names the first thing that is not allowed.
    """
    judged(expression, aliases or {})


def evaluate(
    expression: str, references: Mapping[str, Any] | None = None, *, aliases: Mapping[str, str] | None = None
) -> Any:
    """Check, then compute, one expression of data.

    Args:
        expression: the text after `$`.
        references: id -> value for every `@id` in it, `::` between the steps of an id.
        aliases: see `check`.

    Returns:
        The value; None for an import statement.

    Raises:
        GrammarError: it lies outside the language, is a form that needs components, or exceeds a limit.

    Example:
        >>> evaluate("[2 * @size, 1]", {"size": 3})
        [6, 1]
    """
    tree, form = judged(expression, aliases or {})
    if form is not None:
        raise GrammarError("is a form, no data")
    resolve: Callable[[str], Any] = (references or {}).__getitem__
    return None if tree is None else compute(tree, resolve)
