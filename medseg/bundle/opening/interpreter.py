"""Computes expressions that `grammar.check` let through, node by node, within limits."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable, Mapping, Sized
from typing import Any

from . import words as words
from .grammar import (
    BINARY,
    COMPARE,
    MAX_BITS,
    MAX_ITEMS,
    MAX_STEPS,
    UNARY,
    GrammarError,
    check,
    dotted_name,
    parse,
    reference_of,
)

# Calls that make an array of a size the arguments give.
ALLOCATING = frozenset(
    f"{module}.{name}"
    for module in ("torch", "numpy")
    for name in ("ones", "zeros", "rand", "randn", "arange", "linspace")
)
MAX_ELEMENTS = 1 << 30


def evaluate(
    expression: str, references: Mapping[str, Any] | None = None, *, aliases: Mapping[str, str] | None = None
) -> Any:
    """Check, then compute, one expression.

    Args:
        expression: the text after `$`.
        references: id -> value for every `@id` in it, `::` between the steps of an id.
        aliases: local name -> full name, from the import statements of the same file.

    Returns:
        The value; None for an import statement.

    Raises:
        GrammarError: the expression lies outside the grammar or exceeds a limit.

    Example:
        >>> evaluate("[2 * i for i in @sizes if i > 1]", {"sizes": [1, 2, 3]})
        [4, 6]
    """
    check(expression, aliases=aliases)
    tree = parse(expression)
    if isinstance(tree, ast.stmt):
        return None
    try:
        return _Interpreter(references or {}, aliases or {}).value(tree, {})
    except RecursionError as error:
        raise GrammarError("recurses without end") from error


def _integers(value: Any) -> list[int]:
    if isinstance(value, bool):
        return []
    if isinstance(value, int):
        return [value]
    return [number for item in value for number in _integers(item)] if isinstance(value, (list, tuple)) else []


class _Interpreter:
    def __init__(self, references: Mapping[str, Any], aliases: Mapping[str, str]) -> None:
        self.references = references
        self.aliases = aliases
        self.steps = 0

    def value(self, node: ast.AST, scope: dict[str, Any]) -> Any:
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise GrammarError(f"takes more than {MAX_STEPS} steps")
        method: Callable[[Any, dict[str, Any]], Any] | None = getattr(self, f"value_{type(node).__name__}", None)
        if method is None:
            raise GrammarError(f"contains a {type(node).__name__}")
        return method(node, scope)

    def value_Constant(self, node: ast.Constant, scope: dict[str, Any]) -> Any:
        return node.value

    def value_Name(self, node: ast.Name, scope: dict[str, Any]) -> Any:
        if node.id in scope:
            return scope[node.id]
        reference = reference_of(node)
        if reference is None:
            return self._named(node)
        if reference not in self.references:
            raise GrammarError(f"refers to @{reference}, which is not defined")
        return self.references[reference]

    def _named(self, node: ast.AST) -> Any:
        name = dotted_name(node, self.aliases) or ""
        place = words.VALUES.get(name) or words.CALLS.get(name)
        if place is None:
            raise GrammarError(f"uses {name or 'a value without a name'}")
        module, _, attribute = place.partition(":")
        return getattr(importlib.import_module(module), attribute)

    def value_Attribute(self, node: ast.Attribute, scope: dict[str, Any]) -> Any:
        root: ast.AST = node
        while isinstance(root, ast.Attribute):
            root = root.value
        if isinstance(root, ast.Name) and root.id not in scope and reference_of(root) is None:
            return self._named(node)
        if node.attr not in words.ATTRIBUTES:
            raise GrammarError(f"reads the attribute .{node.attr}")
        return getattr(self.value(node.value, scope), node.attr)

    def value_Subscript(self, node: ast.Subscript, scope: dict[str, Any]) -> Any:
        return self.value(node.value, scope)[self.value(node.slice, scope)]

    def value_Slice(self, node: ast.Slice, scope: dict[str, Any]) -> slice:
        parts = (node.lower, node.upper, node.step)
        return slice(*(None if part is None else self.value(part, scope) for part in parts))

    def _items(self, nodes: list[ast.expr], scope: dict[str, Any]) -> list[Any]:
        found: list[Any] = []
        for node in nodes:
            if isinstance(node, ast.Starred):
                found.extend(self.value(node.value, scope))
            else:
                found.append(self.value(node, scope))
        return found

    def value_List(self, node: ast.List, scope: dict[str, Any]) -> list[Any]:
        return self._items(node.elts, scope)

    def value_Tuple(self, node: ast.Tuple, scope: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(self._items(node.elts, scope))

    def value_Set(self, node: ast.Set, scope: dict[str, Any]) -> set[Any]:
        return set(self._items(node.elts, scope))

    def value_Dict(self, node: ast.Dict, scope: dict[str, Any]) -> dict[Any, Any]:
        table: dict[Any, Any] = {}
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None:
                table.update(self.value(value, scope))
            else:
                table[self.value(key, scope)] = self.value(value, scope)
        return table

    def value_IfExp(self, node: ast.IfExp, scope: dict[str, Any]) -> Any:
        return self.value(node.body if self.value(node.test, scope) else node.orelse, scope)

    def value_BoolOp(self, node: ast.BoolOp, scope: dict[str, Any]) -> Any:
        stops_at = isinstance(node.op, ast.Or)
        result: Any = None
        for part in node.values:
            result = self.value(part, scope)
            if bool(result) is stops_at:
                break
        return result

    def value_UnaryOp(self, node: ast.UnaryOp, scope: dict[str, Any]) -> Any:
        return UNARY[type(node.op)](self.value(node.operand, scope))

    def value_Compare(self, node: ast.Compare, scope: dict[str, Any]) -> Any:
        left = self.value(node.left, scope)
        result: Any = True
        for symbol, right_node in zip(node.ops, node.comparators, strict=True):
            right = self.value(right_node, scope)
            result = COMPARE[type(symbol)](left, right)
            if len(node.ops) > 1 and not result:
                return result
            left = right
        return result

    def value_BinOp(self, node: ast.BinOp, scope: dict[str, Any]) -> Any:
        left, right = self.value(node.left, scope), self.value(node.right, scope)
        _check_operation(node.op, left, right)
        return BINARY[type(node.op)](left, right)

    def value_JoinedStr(self, node: ast.JoinedStr, scope: dict[str, Any]) -> str:
        return "".join(str(self.value(part, scope)) for part in node.values)

    def value_FormattedValue(self, node: ast.FormattedValue, scope: dict[str, Any]) -> str:
        value = self.value(node.value, scope)
        width = "" if node.format_spec is None else str(self.value(node.format_spec, scope))
        return format(repr(value) if node.conversion == ord("r") else value, width)

    def value_Lambda(self, node: ast.Lambda, scope: dict[str, Any]) -> Callable[..., Any]:
        names = [parameter.arg for parameter in node.args.args]
        rest, table = node.args.vararg, node.args.kwarg

        def call(*values: Any, **named: Any) -> Any:
            if "" not in scope:
                self.steps = 0  # a call from outside starts its own count
            plain = {**dict(zip(names, values, strict=False)), **{key: named[key] for key in named if key in names}}
            more, other = values[len(names) :], {key: named[key] for key in named if key not in names}
            if len(plain) < len(names) or (more and rest is None) or (other and table is None):
                raise TypeError(f"expected the arguments {', '.join(names)}, got {len(values) + len(named)}")
            inner = {**scope, **plain, "": True}
            if rest is not None:
                inner[rest.arg] = more
            if table is not None:
                inner[table.arg] = other
            return self.value(node.body, inner)

        return call

    def _loop(self, generators: list[ast.comprehension], scope: dict[str, Any]) -> Any:
        if not generators:
            yield scope
            return
        first, *rest = generators
        for item in self.value(first.iter, scope):
            inner = dict(scope)
            if isinstance(first.target, ast.Tuple):
                names = [target.id for target in first.target.elts if isinstance(target, ast.Name)]
                inner.update(zip(names, item, strict=True))
            elif isinstance(first.target, ast.Name):
                inner[first.target.id] = item
            if all(self.value(condition, inner) for condition in first.ifs):
                yield from self._loop(rest, inner)

    def value_ListComp(self, node: ast.ListComp, scope: dict[str, Any]) -> list[Any]:
        return [self.value(node.elt, inner) for inner in self._loop(node.generators, scope)]

    def value_GeneratorExp(self, node: ast.GeneratorExp, scope: dict[str, Any]) -> list[Any]:
        return [self.value(node.elt, inner) for inner in self._loop(node.generators, scope)]

    def value_SetComp(self, node: ast.SetComp, scope: dict[str, Any]) -> set[Any]:
        return {self.value(node.elt, inner) for inner in self._loop(node.generators, scope)}

    def value_DictComp(self, node: ast.DictComp, scope: dict[str, Any]) -> dict[Any, Any]:
        return {
            self.value(node.key, inner): self.value(node.value, inner) for inner in self._loop(node.generators, scope)
        }

    def value_Call(self, node: ast.Call, scope: dict[str, Any]) -> Any:
        function = node.func
        if dotted_name(function, self.aliases) == "setattr":
            return None  # one of words.SETTABLE: it changes speed only, and belongs to the user
        positional = self._items(node.args, scope)
        named: dict[str, Any] = {}
        for keyword in node.keywords:
            value = self.value(keyword.value, scope)
            named.update({keyword.arg: value} if keyword.arg else value)
        if isinstance(function, ast.Attribute) and not self._is_word(function, scope):
            owner = self.value(function.value, scope)
            _check_method(function.attr, owner, positional)
            if function.attr in words.IGNORED_METHODS:
                return None
            return getattr(owner, function.attr)(*positional, **named)
        name = None if isinstance(function, ast.Name) and function.id in scope else dotted_name(function, self.aliases)
        _check_call(name, positional)
        return self.value(function, scope)(*positional, **named)

    def _is_word(self, node: ast.Attribute, scope: dict[str, Any]) -> bool:
        root: ast.AST = node
        while isinstance(root, ast.Attribute):
            root = root.value
        return isinstance(root, ast.Name) and root.id not in scope and reference_of(root) is None


def _check_operation(symbol: ast.operator, left: Any, right: Any) -> None:
    if isinstance(symbol, ast.Pow) and isinstance(left, int) and isinstance(right, int):
        if right > 0 and abs(left).bit_length() * right > MAX_BITS:
            raise GrammarError("computes a power beyond the limit")
    elif isinstance(symbol, ast.Mult):
        for box, count in ((left, right), (right, left)):
            if isinstance(box, (str, list, tuple, bytes)) and isinstance(count, int) and len(box) * count > MAX_ITEMS:
                raise GrammarError(f"repeats a sequence to more than {MAX_ITEMS} items")
        if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > MAX_BITS:
            raise GrammarError("computes a number beyond the limit")
    elif isinstance(symbol, ast.Mod) and isinstance(left, str):
        raise GrammarError("formats text with %")


def _check_method(name: str, owner: Any, positional: list[Any]) -> None:
    if name not in words.METHODS:
        raise GrammarError(f"calls the method .{name}()")
    if isinstance(owner, str) and name in ("join", "replace"):
        pieces = list(positional[0]) if name == "join" and positional else []
        total = len(owner) * (len(pieces) + 1) + sum(len(str(piece)) for piece in pieces)
        grown = len(owner) * max((len(str(value)) for value in positional), default=1) if name == "replace" else total
        if grown > 10 * MAX_ITEMS:
            raise GrammarError("builds a text beyond the limit")


def _check_call(name: str | None, positional: list[Any]) -> None:
    if name == "range" and len(range(*positional)) > MAX_ITEMS:
        raise GrammarError(f"counts to more than {MAX_ITEMS}")
    if name in ("list", "tuple", "sorted", "set") and positional:
        first = positional[0]
        if isinstance(first, Sized) and len(first) > MAX_ITEMS:
            raise GrammarError(f"lists more than {MAX_ITEMS} items")
    if name in ALLOCATING:
        elements = 1
        for extent in _integers(positional):
            elements *= max(1, abs(extent))
        if elements > MAX_ELEMENTS:
            raise GrammarError(f"makes an array of more than {MAX_ELEMENTS} elements")
