"""Whole expressions that bundles need and that are no data: a closed list, recognised as text and done by us, or left undone.

A form is written as Python with holes: REF_x a reference, NUM_x a number, TEXT_x a text, DATA_x any expression of the
language, VAR_x a local name. `make` does what the form means; a form without it opens and is never done by medseg: reading
the list of inputs, running an engine and switching speeds belong to whoever runs the bundle.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from .bounded import GrammarError
from .grammar import check_data, dotted_name, reference_of

DEVICE = re.compile(r"cpu|cuda(:\d{1,2})?|mps")
UNUSED = "unused"


@dataclass(frozen=True)
class Form:
    """One form.

    Args:
        text: Python with holes.
        role: what it gives: `network`, `device`, `dtype`, `function`, or `unused`.
        make: from the values of its holes to the thing itself; references arrive as what they stand for.
        needs: role that a reference must have, by hole.
    """

    text: str
    role: str = UNUSED
    make: Callable[[dict[str, Any]], Any] | None = None
    needs: tuple[tuple[str, str], ...] = ()


def _device(holes: dict[str, Any]) -> object:
    import torch

    first, second = holes["TEXT_a"], holes.get("TEXT_b", holes["TEXT_a"])
    return torch.device(first if torch.cuda.is_available() else second)


def _dtype(module: str, name: str) -> Callable[[dict[str, Any]], Any]:
    def make(holes: dict[str, Any]) -> Any:
        import numpy
        import torch

        return getattr({"torch": torch, "numpy": numpy}[module], name)

    return make


def _from_second(holes: dict[str, Any]) -> Callable[[Any], Any]:
    start = int(holes["NUM_a"])
    return lambda x: x[start:]


def _nan_to(holes: dict[str, Any]) -> Callable[[Any], Any]:
    number = holes["NUM_a"]

    def call(x: Any) -> Any:
        import torch

        return torch.nan_to_num(x, nan=number)

    return call


def _labels_where(levels: int) -> Callable[[dict[str, Any]], Callable[[Any], Any]]:
    def make(holes: dict[str, Any]) -> Callable[[Any], Any]:
        def call(x: Any) -> Any:
            import torch

            label: Any = holes["NUM_else"]
            for level in reversed(range(levels)):
                channel, least, value = (holes[f"NUM_{what}{level}"] for what in "cmv")
                label = torch.where(x[[int(channel)]] > least, value, label)
            return label

        return call

    return make


def _where_text(levels: int) -> str:
    text = "NUM_else"
    for level in reversed(range(levels)):
        text = f"torch.where(VAR_x[[NUM_c{level}]] > NUM_m{level}, NUM_v{level}, {text})"
    return f"lambda VAR_x: {text}"


_TORCH = (
    "float16",
    "bfloat16",
    "float32",
    "float64",
    "uint8",
    "int8",
    "int16",
    "int32",
    "int64",
    "bool",
    "float",
    "half",
    "long",
)
_NUMPY = ("float16", "float32", "float64", "uint8", "uint16", "uint32", "int8", "int16", "int32", "int64")
_GLOBS = (
    "list(sorted(glob.glob(DATA_a)))",
    "list(glob.glob(DATA_a))",
    "sorted(glob.glob(DATA_a))",
    "glob.glob(DATA_a)",
)

DONE = (
    Form("REF_net.to(REF_device)", "network", lambda holes: holes["REF_net"].to(holes["REF_device"]),
         (("REF_net", "network"), ("REF_device", "device"))),
    Form("torch.device(TEXT_a if torch.cuda.is_available() else TEXT_b)", "device", _device),
    Form("torch.device(TEXT_a)", "device", _device),
    *(Form(f"torch.{name}", "dtype", _dtype("torch", name)) for name in _TORCH),
    *(Form(f"numpy.{name}", "dtype", _dtype("numpy", name)) for name in _NUMPY),
    Form("lambda VAR_x: VAR_x[NUM_a:]", "function", _from_second),
    Form("lambda VAR_x: torch.nan_to_num(VAR_x, nan=NUM_a)", "function", _nan_to),
    *(Form(_where_text(levels), "function", _labels_where(levels)) for levels in (1, 2, 3, 4)),
)  # fmt: skip

LEFT_UNDONE = tuple(
    Form(text)
    for text in (
        "REF_a.run()",
        "REF_a(REF_b)",
        "REF_a(REF_b) if REF_c else None",
        "monai.handlers.from_engine(DATA_a)",
        "monai.handlers.from_engine(DATA_a, first=DATA_b)",
        "monai.utils.set_determinism(NUM_a)",
        "monai.utils.set_determinism(seed=NUM_a)",
        "monai.utils.set_determinism(seed=REF_a)",
        "setattr(torch.backends.cudnn, 'benchmark', DATA_a)",
        "setattr(torch.backends.cudnn, 'deterministic', DATA_a)",
        "sys.path.append(DATA_a)",
        "os.path.exists(DATA_a)",
        "not os.path.exists(DATA_a)",
        "open(DATA_a, 'r', encoding='utf8')",
        "json.load(REF_a)",
        "REF_a.close()",
        *_GLOBS,
        *(f"{text}[:NUM_b]" for text in _GLOBS),
        "[{TEXT_a: VAR_x} for VAR_x in DATA_a]",
        "[{TEXT_a: VAR_x} for VAR_x in glob.glob(DATA_a)]",
        "[{TEXT_a: VAR_x, TEXT_b: VAR_y} for VAR_x, VAR_y in zip(DATA_a, DATA_b)]",
        "[{TEXT_a: VAR_x, TEXT_b: json.loads(pathlib.Path(VAR_y).read_text())} for VAR_x, VAR_y in zip(DATA_a, DATA_b)]",
        "list(DATA_a + pandas.read_csv(DATA_b).NAME_a)",
        "monai.data.load_decathlon_datalist(DATA_a, data_list_key=TEXT_a, base_dir=DATA_b)",
        "monai.data.load_decathlon_datalist(DATA_a, is_segmentation=DATA_c, data_list_key=TEXT_a, base_dir=DATA_b)",
        "[torch.rand(REF_a) for VAR_x in range(DATA_b)]",
        "lambda VAR_x: None",
        "lambda VAR_x, *VAR_y, **VAR_z: (VAR_x.to(REF_a), None, (), {})",
    )
)


def _number(node: object) -> float | None:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        below = _number(node.operand)
        return None if below is None else -below
    value = node.value if isinstance(node, ast.Constant) else None
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9 else None


class _Match:
    """Compares a tree with a template, filling the template's holes."""

    def __init__(self, aliases: Mapping[str, str]) -> None:
        self.aliases = aliases
        self.holes: dict[str, Any] = {}

    def same(self, found: object, wanted: object) -> bool:
        hole = getattr(wanted, "id", None) or getattr(wanted, "arg", None) if isinstance(wanted, ast.AST) else None
        if (
            isinstance(hole, str)
            and re.match(r"(REF|NUM|TEXT|DATA|VAR)_", hole)
            and not isinstance(wanted, ast.keyword)
        ):
            return self._fill(hole, found)
        if isinstance(wanted, ast.Attribute) and wanted.attr.startswith("NAME_"):
            return isinstance(found, ast.Attribute) and self.same(found.value, wanted.value)
        name = dotted_name(wanted, {}) if isinstance(wanted, (ast.Name, ast.Attribute)) else None
        if name is not None and not name.startswith(("REF_", "VAR_")):
            return isinstance(found, (ast.Name, ast.Attribute)) and dotted_name(found, self.aliases) == name
        if isinstance(wanted, list):
            return (
                isinstance(found, list)
                and len(found) == len(wanted)
                and all(self.same(a, b) for a, b in zip(_ordered(found), _ordered(wanted), strict=True))
            )
        if not isinstance(wanted, ast.AST):
            return type(found) is type(wanted) and found == wanted
        if type(found) is not type(wanted):
            return False
        fields = (name for name in wanted._fields if name not in ("ctx", "type_comment", "kind"))
        return all(self.same(getattr(found, name, None), getattr(wanted, name, None)) for name in fields)

    def _fill(self, hole: str, found: Any) -> bool:
        kind = hole.split("_")[0]
        value: Any = None
        if kind == "REF":
            value = reference_of(found)
        elif kind == "NUM":
            value = _number(found)
        elif kind == "TEXT":
            value = found.value if isinstance(found, ast.Constant) and isinstance(found.value, str) else None
        elif kind == "VAR":
            value = getattr(found, "id", None) or getattr(found, "arg", None)
            if reference_of(found) is not None:
                return False
        else:
            try:
                check_data(found, self.aliases)
            except GrammarError:
                return False
            value = True
        if value is None or self.holes.get(hole, value) != value:
            return False
        self.holes[hole] = value
        return True


def _ordered(items: list[Any]) -> list[Any]:
    """Keywords may come in any order."""
    return sorted(items, key=lambda item: str(item.arg)) if items and isinstance(items[0], ast.keyword) else items


@cache
def _templates() -> list[tuple[Form, ast.AST]]:
    return [(form, ast.parse(form.text, mode="eval").body) for form in (*DONE, *LEFT_UNDONE)]


def recognise(tree: ast.AST, aliases: Mapping[str, str]) -> tuple[Form, dict[str, Any]] | None:
    """The form that a tree has, with the values of its holes, or None.

    References are given by their ids. A device must be a plain word such as `cuda:0`.
    """
    for form, template in _templates():
        match = _Match(aliases)
        if match.same(tree, template):
            if form.role == "device" and not all(
                DEVICE.fullmatch(value) for hole, value in match.holes.items() if hole.startswith("TEXT")
            ):
                continue
            return form, match.holes
    return None
