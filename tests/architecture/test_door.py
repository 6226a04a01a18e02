"""`medseg.plan, fit, cv, predict, evaluate, load`: what a type checker and an editor see of them."""

from __future__ import annotations

import ast
import inspect
import typing
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import medseg
from medseg.commands.plan import Words as PlanWords
from medseg.planning.planner import Request

DOORS = ("plan", "fit", "cv", "predict", "evaluate", "load")


def test_the_checker_is_told_of_the_very_functions_that_are_fetched_at_run_time() -> None:
    tree = ast.parse(Path(medseg.__file__).read_text(encoding="utf-8"))
    told = {
        alias.asname or alias.name: (f"medseg.{node.module}", alias.name)
        for branch in tree.body
        if isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING"
        for node in branch.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert told == medseg._DOORS
    assert set(medseg.__all__) == {*told, "__version__"}


@pytest.mark.parametrize("name", DOORS)
def test_every_argument_has_a_type_and_none_is_any(name: str) -> None:
    door: Callable[..., object] = getattr(medseg, name)
    hints = typing.get_type_hints(door)
    words = inspect.signature(door).parameters
    assert set(words) <= set(hints)
    assert Any not in hints.values()
    for word, parameter in words.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            assert typing.get_origin(hints[word]) is typing.Unpack, f"{name}(**{word}) takes anything"
        assert parameter.kind is not inspect.Parameter.VAR_POSITIONAL
    assert (door.__doc__ or "").count("\n") > 5


def test_the_words_of_plan_are_what_planning_asks_for() -> None:
    hints, known = typing.get_type_hints(PlanWords), {field.name for field in fields(Request)}
    assert set(hints) - known == {"regions"}


def test_what_load_gives_says_what_comes_back_for_a_file_a_tensor_and_an_array() -> None:
    made = typing.get_type_hints(medseg.load)["return"]
    kinds = typing.get_overloads(made.__call__)
    told = [(kind.__annotations__["image"], kind.__annotations__["return"]) for kind in kinds]
    assert told == [
        ("object", "Path"),
        ("torch.Tensor", "torch.Tensor"),
        ("NDArray[np.generic] | FilePath | Sequence[FilePath]", "NDArray[np.integer]"),
        ("object", "object"),  # nibabel and SimpleITK, which have no types
    ]
    words = [list(inspect.signature(kind).parameters) for kind in (*kinds, made.__call__)]
    assert all(each == ["self", "image", "output", "affine", "spacing"] for each in words)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'segment'"):
        _ = medseg.segment  # type: ignore[attr-defined]
