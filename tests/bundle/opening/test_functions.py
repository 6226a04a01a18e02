"""Every function, operator and form of the language of `$`, driven with hostile values while Python's audit events are heard.

The tests run over the tables (`FUNCTIONS`, `BINARY`, `UNARY`, `COMPARE`, `DONE`), so that a new entry is covered the day it is
added. What comes back is data within the limits, or one refusal; nothing else happens.
"""

from __future__ import annotations

import ast
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from medseg.bundle.opening.bounded import FUNCTIONS, MAX_BITS, MAX_ITEMS, MAX_TEXT, GrammarError, count
from medseg.bundle.opening.expressions import evaluate
from medseg.bundle.opening.forms import DONE
from medseg.bundle.opening.grammar import BINARY, COMPARE, UNARY
from medseg.bundle.opening.parser import SafeConfig, check_config
from medseg.errors import MedsegError
from tests.reliability.audit import Watch

pytestmark = pytest.mark.requirement("R13")

DATA = (type(None), bool, int, float, str, list, tuple, dict, slice)
NUMBERS: list[Any] = [0, -1, 2, 10**9, 10**30, 1e300, float("inf"), float("nan"), True]
WORDS: list[Any] = [
    "", "a", "os.system", "__import__('os').system('true')", "$open('x', 'w')", "@x", "%configs/x.json", "/etc/passwd", "../x",
    "http://127.0.0.1:9/x", "{0.__class__}", "\0", "1e400", "0x" + "f" * 40, "9" * 9999, "%s" * 5000,
]  # fmt: skip
LISTS: list[Any] = [
    [], [1, 2], ("a", "b"), ["a", 1, None], [[0] * 4000] * 2, ["b", "a"] * 4000, [10**30] * 4000, {"a": 1}, {"__class__": "os"},
]  # fmt: skip
HOSTILE = [None, *NUMBERS, *WORDS, *LISTS]
SECOND = [3, -1, "os.system", [1]]
SYMBOLS = {
    "Add": "+", "Sub": "-", "Mult": "*", "Div": "/", "FloorDiv": "//", "Mod": "%", "Pow": "**", "UAdd": "+", "USub": "-",
    "Not": "not", "Eq": "==", "NotEq": "!=", "Lt": "<", "LtE": "<=", "Gt": ">", "GtE": ">=", "Is": "is", "IsNot": "is not",
    "In": "in", "NotIn": "not in",
}  # fmt: skip
TWO = {**BINARY, **COMPARE}
CALLS = {
    **{name: [f"{name}({', '.join(['@x', '@y', '@z'][:number])})" for number in range(4)] for name in FUNCTIONS},
    **{kind.__name__: [f"@x {SYMBOLS[kind.__name__]} @y"] for kind in TWO},
    **{kind.__name__: [f"{SYMBOLS[kind.__name__]} @x"] for kind in UNARY},
    "parts": ["@x[@y]", "@x[@y:@z]", "[@y] if @x else (@z, @x)", "@x and @y or @z"],
}


class Acting:
    """An object that tells when any of its special methods is used."""

    used: list[str]

    def __init__(self) -> None:
        object.__setattr__(self, "used", [])


def _tells(name: str) -> Callable[..., Any]:
    def method(self: Acting, *_: Any) -> Any:
        self.used.append(name)
        return 1

    return method


METHODS = (
    "abs add bool call ceil contains eq float floor format ge getattr getitem gt hash index int invert iter le len lt mod mul ne "
    "neg next pos pow radd repr reversed rmul round rsub str sub truediv"
)
for _name in METHODS.split():
    setattr(Acting, f"__{_name}__", _tells(_name))


class ActingText(str):
    __slots__ = ()

    def __str__(self) -> str:
        raise SystemExit("called")

    __len__ = __add__ = __radd__ = __eq__ = __iter__ = __contains__ = __str__  # type: ignore[assignment]
    __hash__ = str.__hash__


class ActingList(list[Any]):
    def __iter__(self) -> Iterator[Any]:
        raise SystemExit("called")

    __len__ = __add__ = __radd__ = __eq__ = __getitem__ = __reversed__ = __iter__  # type: ignore[assignment]


@pytest.fixture(scope="module")
def watch() -> Watch:
    return Watch()


def given(text: str) -> Iterator[dict[str, Any]]:
    """Values of what a text refers to; the more of them, the fewer of each."""
    first = HOSTILE[:: 6 if "@z" in text else 1]
    lists = [first if "@x" in text else [0], SECOND if "@y" in text else [0], SECOND[:3] if "@z" in text else [0]]
    for values in itertools.product(*lists):
        yield dict(zip("xyz", values, strict=True))


def outcome(call: Callable[..., Any], *arguments: Any) -> Any:
    """What a call returns, or the refusal that it raises; any other exception fails the test."""
    try:
        return call(*arguments)
    except (GrammarError, MedsegError) as refusal:
        return refusal


@pytest.mark.parametrize("name", CALLS)
def test_a_function_or_operator_gives_bounded_data_or_a_refusal(name: str, watch: Watch, tmp_path: Path) -> None:
    with watch.watching(tmp_path / "nowhere") as broken:
        for text in CALLS[name]:
            for values in given(text):
                result = outcome(evaluate, text, values)
                if isinstance(result, GrammarError):
                    assert "\n" not in str(result)
                    continue
                assert type(result) in DATA
                assert count(result) <= MAX_ITEMS
                assert not isinstance(result, int) or result.bit_length() <= MAX_BITS
                assert not isinstance(result, str) or len(result) <= MAX_TEXT
    assert broken == []


@pytest.mark.parametrize("name", CALLS)
def test_no_object_reaches_a_function_or_operator(name: str) -> None:
    """A component, a function or a subclass of a plain type is refused before any of its methods is used."""
    for text in (text for text in CALLS[name] if "@x" in text):
        for value in (
            Acting(),
            ActingText("a"),
            ActingList([1]),
            torch.nn.ReLU(),
            len,
            [Acting()],
            {"a": Acting()},
            object,
        ):
            with pytest.raises(GrammarError, match="puts a component into an expression"):
                evaluate(text, {"x": value, "y": value, "z": value})
            if isinstance(value, Acting):
                assert value.used == []


def test_every_operator_of_the_language_is_driven() -> None:
    for kind in (*BINARY, *COMPARE, *UNARY):
        tree: Any = ast.parse(CALLS[kind.__name__][0].replace("@", ""), mode="eval").body
        found = getattr(tree, "op", None) or getattr(tree, "ops", [None])[0]
        assert type(found) is kind


HOLES: dict[str, list[str]] = {
    "REF": ["@nothing", "@text", "@tool", "@table", "os", "open('x', 'w')", "@network.x", "@q"],
    "NUM": ["10**9", "-1", "True", "'a'", "@text", "1e999", "open('x', 'w')", "__import__('os')"],
    "TEXT": ["'os.system'", "'cuda:99999999999'", "'meta'", "'../x'", "''", "@text", "open('x', 'w')", "'cpu\\nx'"],
    "VAR": ["open", "__import__", "torch", "x.y"],
}
SOUND = {"REF_net": "@network", "REF_device": "@device", "NUM": "1", "TEXT": "'cpu'", "VAR": "x"}
AROUND = {
    "text": "os.system", "table": {"a": 1}, "device": "$torch.device('cpu')",
    "network": {"_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 2, "channels": [2, 4], "strides": [2]},
    "tool": {"_target_": "LoadImaged", "keys": "image", "reader": "os.system"},
}  # fmt: skip


def _filled(text: str, hole: str = "", value: str = "") -> str:
    for name in sorted(_holes(text), key=len, reverse=True):
        sound = SOUND.get(name) or SOUND[name.split("_")[0]]
        text = text.replace(name, value if name == hole else sound)
    return text


def _holes(text: str) -> set[str]:
    words = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
    return {word for word in words if word.split("_")[0] in HOLES and "_" in word}


@pytest.mark.parametrize("text", [form.text for form in DONE], ids=lambda text: text[:40])
def test_a_form_that_medseg_performs_does_nothing_else_whatever_fills_its_holes(
    text: str, watch: Watch, tmp_path: Path
) -> None:
    assert check_config({**AROUND, "tool": 1, "x": f"${_filled(text)}"}) == []
    around = {**AROUND, "q": "@q"}
    made = SafeConfig({**AROUND, "x": f"${_filled(text)}"}).get("x")
    image = torch.arange(24.0).reshape(3, 2, 2, 2)
    with watch.watching(tmp_path / "nowhere") as broken:
        if callable(made) and not isinstance(made, (torch.nn.Module, type)):
            assert isinstance(made(image), torch.Tensor)
        for hole in _holes(text):
            for value in HOLES[hole.split("_")[0]]:
                config = SafeConfig({**around, "x": f"${_filled(text, hole, value)}"})
                found = outcome(config.get, "x")
                if isinstance(found, MedsegError):
                    assert "\n" not in str(found)
                    continue
                allowed = (torch.nn.Module, torch.device, torch.dtype, type, type(_holes))
                assert isinstance(found, (*DATA, *allowed)), (hole, value, found)
    assert broken == []
