"""A small interpreted language for the `$` expressions of bundle files. Nothing is ever handed to Python's eval.

An expression is parsed to Python's syntax tree; `check` walks the tree and refuses every node, name, call, attribute
and import that is not written in `grammar_words`, before anything of the bundle is built; `evaluate` then computes it
node by node, with limits on powers, sizes and steps. References (`@id`) are looked up by the caller.

What there is: literals, names of `grammar_words`, arithmetic, comparison, conditions, subscripts, displays,
comprehensions, f-strings, lambdas (their bodies obey the same rules), calls by full name, a few methods.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from . import words as words

REFERENCE = re.compile(r"@(\w+(?:(?:::|#)\w+)*)")
REFERENCE_NAME = "_medseg_reference_"  # `@a::b` is read as a plain name, so that it can stand inside an f-string too
STEP = "_medseg_step_"

MAX_LENGTH = 4000  # characters; the longest expression of the public model zoo has about 400
MAX_BITS = 4096  # of an integer result: 9**9**9 has 3.7e8 digits
MAX_ITEMS = 1_000_000  # of a repeated or computed sequence
MAX_STEPS = 1_000_000  # nodes evaluated for one expression, loops included


class GrammarError(ValueError):
    """An expression lies outside the grammar, or exceeds one of its limits; the message says why."""


BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
}
UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Not: operator.not_,
    ast.Invert: operator.invert,
}
COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda item, box: item in box,
    ast.NotIn: lambda item, box: item not in box,
}


def parse(expression: str) -> ast.expr | ast.stmt:
    """The syntax tree of one expression or import statement, references turned into names of their own.

    Raises:
        GrammarError: too long, too deep, or no Python.
    """
    text = expression.strip()
    if len(text) > MAX_LENGTH:
        raise GrammarError(f"is {len(text)} characters long, more than {MAX_LENGTH}")
    if REFERENCE_NAME in text or STEP in text:
        raise GrammarError("uses a reserved name")
    text = REFERENCE.sub(lambda found: REFERENCE_NAME + re.sub("::|#", STEP, found.group(1)), text)
    try:
        body = ast.parse(text, mode="exec").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise GrammarError(f"does not parse ({type(error).__name__})") from error
    if len(body) != 1:
        raise GrammarError("is not one expression")
    statement = body[0]
    return statement.value if isinstance(statement, ast.Expr) else statement


def imported_names(tree: ast.AST) -> dict[str, str]:
    """Local name -> full dotted name of an import statement; empty for anything else.

    Raises:
        GrammarError: the module is not one of `grammar_words.MODULES`. Nothing is imported here.
    """
    if isinstance(tree, ast.Import):
        names = {entry.asname or entry.name.split(".")[0]: entry for entry in tree.names}
        for entry in tree.names:
            _known_module(entry.name)
        return {local: entry.name if entry.asname else entry.name.split(".")[0] for local, entry in names.items()}
    if isinstance(tree, ast.ImportFrom):
        _known_module(tree.module or "")
        if any(entry.name == "*" for entry in tree.names):
            raise GrammarError("imports *")
        return {entry.asname or entry.name: f"{tree.module}.{entry.name}" for entry in tree.names}
    return {}


def _known_module(name: str) -> None:
    if name not in words.MODULES:
        raise GrammarError(f"imports {name!r}, which is not among the known modules")


def reference_of(node: ast.AST) -> str | None:
    """The id that a name stands for, `::` between steps, or None when it is no reference."""
    if isinstance(node, ast.Name) and node.id.startswith(REFERENCE_NAME):
        return node.id.removeprefix(REFERENCE_NAME).replace(STEP, "::")
    return None


def references(expression: str) -> list[str]:
    """Ids that an expression refers to, `::` between steps.

    Example:
        >>> references("@a + @b#c")
        ['a', 'b::c']
    """
    return [found.replace("#", "::") for found in REFERENCE.findall(expression)]


def dotted_name(node: ast.AST, aliases: Mapping[str, str]) -> str | None:
    """The full name of `a.b.c` with import aliases resolved, or None when the root is no plain name."""
    steps: list[str] = []
    while isinstance(node, ast.Attribute):
        steps.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or reference_of(node) is not None:
        return None
    root = aliases.get(node.id, words.DEFAULT_ALIASES.get(node.id, node.id))
    return ".".join([root, *reversed(steps)])


def check(expression: str, *, aliases: Mapping[str, str] | None = None) -> None:
    """Refuse an expression outside the grammar, without computing anything.

    Args:
        expression: the text after `$`.
        aliases: local name -> full name, from the import statements of the same file.

    Raises:
        GrammarError: names the first thing that is not allowed.
    """
    tree = parse(expression)
    if isinstance(tree, (ast.Import, ast.ImportFrom)):
        imported_names(tree)
    elif isinstance(tree, ast.expr):
        try:
            _Checker(aliases or {}).visit(tree, frozenset())
        except RecursionError as error:
            raise GrammarError("is nested too deeply") from error
    else:
        raise GrammarError(f"is a statement ({type(tree).__name__})")


class _Checker:
    """Walks a tree with the set of locally bound names (lambda parameters, loop variables)."""

    def __init__(self, aliases: Mapping[str, str]) -> None:
        self.aliases = aliases

    def visit(self, node: ast.AST, bound: frozenset[str]) -> None:
        method = getattr(self, f"check_{type(node).__name__}", None)
        if method is not None:
            method(node, bound)
            return
        if not isinstance(node, words.PLAIN_NODES):
            raise GrammarError(f"contains a {type(node).__name__}")
        for child in ast.iter_child_nodes(node):
            self.visit(child, bound)

    def check_Name(self, node: ast.Name, bound: frozenset[str]) -> None:
        if node.id in bound or reference_of(node) is not None:
            return
        name = dotted_name(node, self.aliases)
        if name not in words.VALUES and name not in words.CALLS:
            raise GrammarError(f"uses the name {node.id!r}")

    def check_Attribute(self, node: ast.Attribute, bound: frozenset[str]) -> None:
        root: ast.AST = node
        while isinstance(root, ast.Attribute):
            root = root.value
        if isinstance(root, ast.Name) and root.id not in bound and reference_of(root) is None:
            name = dotted_name(node, self.aliases) or ""
            if name not in words.VALUES and name not in words.CALLS:
                raise GrammarError(f"uses {name}")
            return
        if node.attr not in words.ATTRIBUTES:
            raise GrammarError(f"reads the attribute .{node.attr}")
        self.visit(node.value, bound)

    def check_Call(self, node: ast.Call, bound: frozenset[str]) -> None:
        name = dotted_name(node.func, self.aliases)
        if name == "setattr":
            self._check_setattr(node)
            return
        for argument in node.args:
            self.visit(argument, bound)
        for keyword in node.keywords:
            self.visit(keyword.value, bound)
        root = name.split(".")[0] if name else None
        if isinstance(node.func, ast.Name) and node.func.id in bound:
            return
        if name is not None and root not in bound:
            if name not in words.CALLS:
                raise GrammarError(f"calls {name}")
            return
        if isinstance(node.func, ast.Attribute):
            if node.func.attr not in words.METHODS:
                raise GrammarError(f"calls the method .{node.func.attr}()")
            self.visit(node.func.value, bound)
            return
        if not isinstance(node.func, ast.Subscript) and reference_of(node.func) is None:
            raise GrammarError("calls something that has no name")
        self.visit(node.func, bound)  # a component of the same file, such as @postprocessing(...)

    def _check_setattr(self, node: ast.Call) -> None:
        target = dotted_name(node.args[0], self.aliases) if len(node.args) == 3 else None
        what = node.args[1].value if len(node.args) == 3 and isinstance(node.args[1], ast.Constant) else None
        if (target, what) not in words.SETTABLE:
            raise GrammarError("sets an attribute")

    def check_Lambda(self, node: ast.Lambda, bound: frozenset[str]) -> None:
        spec = node.args
        if spec.kwonlyargs or spec.posonlyargs or spec.defaults:
            raise GrammarError("has a lambda with more than plain parameters")
        rest = [parameter for parameter in (spec.vararg, spec.kwarg) if parameter is not None]
        self.visit(node.body, bound | {parameter.arg for parameter in [*spec.args, *rest]})

    def _check_loops(self, node: Any, parts: Iterable[ast.AST], bound: frozenset[str]) -> None:
        for loop in node.generators:
            self.visit(loop.iter, bound)
            targets = loop.target.elts if isinstance(loop.target, ast.Tuple) else [loop.target]
            if any(reference_of(target) is not None for target in targets):
                raise GrammarError("assigns to a reference")
            if loop.is_async or not all(isinstance(target, ast.Name) for target in targets):
                raise GrammarError("has a loop whose variables are no plain names")
            bound = bound | {target.id for target in targets if isinstance(target, ast.Name)}
            for condition in loop.ifs:
                self.visit(condition, bound)
        for part in parts:
            self.visit(part, bound)

    def check_ListComp(self, node: ast.ListComp, bound: frozenset[str]) -> None:
        self._check_loops(node, [node.elt], bound)

    def check_SetComp(self, node: ast.SetComp, bound: frozenset[str]) -> None:
        self._check_loops(node, [node.elt], bound)

    def check_GeneratorExp(self, node: ast.GeneratorExp, bound: frozenset[str]) -> None:
        self._check_loops(node, [node.elt], bound)

    def check_DictComp(self, node: ast.DictComp, bound: frozenset[str]) -> None:
        self._check_loops(node, [node.key, node.value], bound)

    def check_BinOp(self, node: ast.BinOp, bound: frozenset[str]) -> None:
        if type(node.op) not in BINARY:
            raise GrammarError(f"uses the operator {type(node.op).__name__}")
        self.visit(node.left, bound)
        self.visit(node.right, bound)

    def check_Constant(self, node: ast.Constant, bound: frozenset[str]) -> None:
        if not isinstance(node.value, (str, int, float, bool, type(None), type(...))):
            raise GrammarError(f"holds a {type(node.value).__name__}")

    def check_FormattedValue(self, node: ast.FormattedValue, bound: frozenset[str]) -> None:
        if node.format_spec is not None:
            text = ast.unparse(node.format_spec)
            if not re.fullmatch(r"f?['\"]0?\d{0,2}(\.\d)?[dfegs%]?['\"]", text):
                raise GrammarError("formats with more than a short plain width")
        self.visit(node.value, bound)
