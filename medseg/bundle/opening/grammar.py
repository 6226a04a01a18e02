"""The language of `$` expressions in bundle files: data, references and arithmetic. Nothing is ever handed to Python's eval.

`NODES` is the whole of it: each kind of syntax that may stand in an expression, which parts of it are judged, and what it
means. What is not in that table is refused: attributes, methods, lambdas, comprehensions, f-strings, assignments.
"""

from __future__ import annotations

import ast
import operator
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .bounded import FUNCTIONS, GrammarError, add, bounded, multiply, power, remainder

REFERENCE = re.compile(r"@(\w+(?:(?:::|#)\w+)*)")
REFERENCE_NAME = "_medseg_reference_"  # `@a::b` is read as a plain name
STEP = "_medseg_step_"

MAX_LENGTH = 2000  # characters; the longest expression of the public model zoo has about 400
MAX_DEPTH = 60
MAX_STEPS = 2000  # nodes evaluated for one expression
MAX_SECONDS = 1.0  # of computing time for all expressions of one file

# Names that MONAI makes available without an import statement.
DEFAULT_ALIASES = {"np": "numpy"}

# Modules that `$import` may name. The statement only makes a local name known; nothing is imported by it.
MODULES = frozenset(
    {
        "copy", "glob", "os", "os.path", "json", "math", "random", "sys", "datetime", "functools", "itertools", "re", "pathlib",
        "numpy", "pandas", "PIL", "torch", "torchvision", "torch.nn", "torch.distributed", "ignite", "ignite.engine",
        "ignite.metrics", "nibabel", "monai", "monai.apps", "monai.bundle", "monai.data", "monai.data.utils",
        "monai.engines", "monai.handlers", "monai.inferers", "monai.losses", "monai.metrics", "monai.networks",
        "monai.networks.nets", "monai.transforms", "monai.utils", "scripts", "medseg",
    }
)  # fmt: skip

Compute = Callable[[Any], Any]


class Clock:
    """Computing time that the expressions of one file have left; one inside another counts once."""

    def __init__(self) -> None:
        self.left = MAX_SECONDS
        self.depth = 0
        self.begin = 0.0

    def __enter__(self) -> None:
        if not self.depth:
            self.begin = time.thread_time()
        self.depth += 1
        self.look()

    def __exit__(self, *_: object) -> None:
        self.depth -= 1
        if not self.depth:
            self.left -= time.thread_time() - self.begin

    @property
    def over(self) -> bool:
        """Whether nothing is left."""
        return self.left <= 0

    def look(self) -> None:
        """Raise GrammarError when the time is over."""
        if time.thread_time() - self.begin > self.left:
            self.left = 0.0
            raise GrammarError(f"takes, with the others of the file, more than {MAX_SECONDS:g} s of computing")


@dataclass(frozen=True)
class Node:
    """One kind of syntax.

    Args:
        parts: the nodes inside it that must be judged as well; raises GrammarError for a form of it that is not allowed.
        meaning: its value, given the node and a function that computes a part.
    """

    parts: Callable[[Any], list[Any]]
    meaning: Callable[[Any, Compute], Any]


BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: add, ast.Sub: operator.sub, ast.Mult: multiply, ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv,
    ast.Mod: remainder, ast.Pow: power,
}  # fmt: skip
UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.UAdd: operator.pos, ast.USub: operator.neg, ast.Not: operator.not_,
}  # fmt: skip
COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge, ast.Is: operator.is_, ast.IsNot: operator.is_not, ast.In: lambda item, box: item in box,
    ast.NotIn: lambda item, box: item not in box,
}  # fmt: skip


def _known(symbol: object, table: Mapping[Any, Any]) -> object:
    if type(symbol) not in table:
        raise GrammarError(f"uses the operator {type(symbol).__name__}")
    return table[type(symbol)]


def _constant_parts(node: ast.Constant) -> list[Any]:
    if type(node.value) not in (str, int, float, bool, type(None)):
        raise GrammarError(f"holds a {type(node.value).__name__}")
    bounded(node.value)
    return []


def _binary_parts(node: ast.BinOp) -> list[Any]:
    _known(node.op, BINARY)
    return [node.left, node.right]


def _unary_parts(node: ast.UnaryOp) -> list[Any]:
    _known(node.op, UNARY)
    return [node.operand]


def _compare_parts(node: ast.Compare) -> list[Any]:
    for symbol in node.ops:
        _known(symbol, COMPARE)
    return [node.left, *node.comparators]


def _compare(node: ast.Compare, value: Compute) -> object:
    left = value(node.left)
    for symbol, right_node in zip(node.ops, node.comparators, strict=True):
        right = value(right_node)
        if not COMPARE[type(symbol)](left, right):
            return False
        left = right
    return True


def _either(node: ast.BoolOp, value: Compute) -> object:
    result: Any = None
    for part in node.values:
        result = value(part)
        if bool(result) is isinstance(node.op, ast.Or):
            break
    return result


def _dict_parts(node: ast.Dict) -> list[Any]:
    if any(key is None for key in node.keys):
        raise GrammarError("merges tables")
    return [*node.keys, *node.values]


def _call_parts(node: ast.Call) -> list[Any]:
    name = dotted_name(node.func, getattr(node, "aliases", {}))
    if name is None or name not in FUNCTIONS:
        raise GrammarError(f"calls {name or 'something that has no name'}")
    if node.keywords:
        raise GrammarError(f"calls {name} with keywords")
    return list(node.args)


def _call(node: ast.Call, value: Compute) -> object:
    return FUNCTIONS[dotted_name(node.func, getattr(node, "aliases", {})) or ""](*[value(part) for part in node.args])


def _name_parts(node: ast.Name) -> list[Any]:
    if reference_of(node) is None:
        raise GrammarError(f"uses the name {node.id!r}")
    return []


def _slice_parts(node: ast.Slice) -> list[Any]:
    return [part for part in (node.lower, node.upper, node.step) if part is not None]


def _slice(node: ast.Slice, value: Compute) -> slice:
    return slice(*(None if part is None else value(part) for part in (node.lower, node.upper, node.step)))


def _pairs(node: ast.Dict, value: Compute) -> dict[Any, Any]:
    return {value(key): value(item) for key, item in zip(node.keys, node.values, strict=True)}


NODES: dict[type[ast.AST], Node] = {
    ast.Constant: Node(_constant_parts, lambda node, value: node.value),
    ast.Name: Node(_name_parts, lambda node, value: value(reference_of(node))),
    ast.List: Node(lambda node: node.elts, lambda node, value: [value(part) for part in node.elts]),
    ast.Tuple: Node(lambda node: node.elts, lambda node, value: tuple(value(part) for part in node.elts)),
    ast.Dict: Node(_dict_parts, _pairs),
    ast.BinOp: Node(_binary_parts, lambda node, value: BINARY[type(node.op)](value(node.left), value(node.right))),
    ast.UnaryOp: Node(_unary_parts, lambda node, value: UNARY[type(node.op)](value(node.operand))),
    ast.BoolOp: Node(lambda node: node.values, _either),
    ast.Compare: Node(_compare_parts, _compare),
    ast.IfExp: Node(
        lambda node: [node.test, node.body, node.orelse],
        lambda node, value: value(node.body if value(node.test) else node.orelse),
    ),
    ast.Subscript: Node(
        lambda node: [node.value, node.slice], lambda node, value: value(node.value)[value(node.slice)]
    ),
    ast.Slice: Node(_slice_parts, _slice),
    ast.Call: Node(_call_parts, _call),
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
    """Local name -> full dotted name of an import statement; empty for anything else. Nothing is imported here.

    Raises:
        GrammarError: the module is not one of `MODULES`.
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
    if name not in MODULES:
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
    root = aliases.get(node.id, DEFAULT_ALIASES.get(node.id, node.id))
    return ".".join([root, *reversed(steps)])


def check_data(tree: ast.AST, aliases: Mapping[str, str], depth: int = 0) -> None:
    """Refuse a tree that is not wholly made of `NODES`, without computing anything.

    Raises:
        GrammarError: names the first thing that is not allowed.
    """
    if depth > MAX_DEPTH:
        raise GrammarError("is nested too deeply")
    known = NODES.get(type(tree))
    if known is None:
        raise GrammarError(f"contains a {type(tree).__name__}")
    if isinstance(tree, ast.Call):
        tree.aliases = aliases  # type: ignore[attr-defined]  # so that the table alone says what the call means
    for part in known.parts(tree):
        check_data(part, aliases, depth + 1)


def compute(tree: ast.AST, resolve: Callable[[str], Any], clock: Clock | None = None) -> Any:
    """The value of a tree that `check_data` let through: data, within the limits.

    Args:
        tree: see `parse`.
        resolve: gives the value of a reference.
        clock: that of the file; one of its own by default.

    Raises:
        GrammarError: a limit, a component among the values, or an operation that its values do not have.
    """
    steps, clock = 0, clock or Clock()

    def value(part: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps > MAX_STEPS:
            raise GrammarError(f"takes more than {MAX_STEPS} steps")
        clock.look()
        return bounded(resolve(part) if isinstance(part, str) else NODES[type(part)].meaning(part, value))

    try:
        with clock:
            return value(tree)
    except GrammarError:
        raise
    except (ArithmeticError, TypeError, ValueError, LookupError, RecursionError) as error:
        raise GrammarError(f"cannot be computed ({type(error).__name__}: {error})") from error
