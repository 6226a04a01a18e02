"""Expressions of a stranger's bundle: data is computed as Python would, known forms are recognised, the rest is refused."""

from __future__ import annotations

import contextlib
import string
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.bundle.opening.bounded import GrammarError
from medseg.bundle.opening.expressions import evaluate, judged
from medseg.bundle.opening.forms import LEFT_UNDONE
from medseg.bundle.opening.grammar import imported_names, parse, references

ANSWERS: list[tuple[str, dict[str, Any], Any]] = [
    ("@root + '/out'", {"root": "a"}, "a/out"),
    ("@a#b + @a::b", {"a::b": 2}, 4),
    ("((@large - @small) // 2,) * 4", {"large": 10, "small": 4}, (3, 3, 3, 3)),
    ("1.0 - float(@small) / float(@large)", {"small": 1, "large": 4}, 0.75),
    ("1 < @x <= 3 and not @y", {"x": 3, "y": False}, True),
    ("@x[1:][::-1]", {"x": [1, 2, 3]}, [3, 2]),
    ("[1.0, 1.0] if @fine else [2.0, 2.0]", {"fine": False}, [2.0, 2.0]),
    ("os.path.join(@root, 'a', 'b')", {"root": "/r/"}, "/r/a/b"),
    ("list(range(3, 7)) + [20]", {}, [3, 4, 5, 6, 20]),
    ("{'a': max(1, 2)}['a']", {}, 2),
    ("sum([1, 2, 3]) + math.prod([2, 3]) + math.ceil(1.5) + len('ab')", {}, 16),
    ("2 ** 10 % 7 or 5", {}, 2),
    ("import glob", {}, None),
]


@pytest.mark.parametrize(("expression", "given_values", "answer"), ANSWERS, ids=[entry[0] for entry in ANSWERS])
def test_value_is_what_python_gives(expression: str, given_values: dict[str, Any], answer: Any) -> None:
    assert evaluate(expression, given_values) == answer


FORBIDDEN = [
    "__import__('os').system('x')", "open('x', 'w')", "eval('1')", "exec('1')", "os.system('x')", "().__class__", "@a.x",
    "torch.nn.functional.torch.os.system('x')", "monai.utils.run_cmd('x')", "torch.hub.load('a', 'b')", "print",
    "np.load('x', allow_pickle=True)", "numpy.load('x')", "torch.load('x')", "torch.load.__globals__", "getattr(1, 'real')",
    "globals()", "vars()", "setattr(@a, 'b', 1)", "setattr(torch, 'load', print)", "'{0.__class__}'.format(1)", "f'{1}'",
    "'%1000000000d' % 1", "9**9**9", "10**10**10", "'a' * 10**9", "[0] * 10**9", "list(range(10**9))", "torch.ones(10**6)",
    "[i for i in range(3)]", "{i for i in [1]}", "[[a for a in [b]] for b in [1]]", "(lambda f: f)(1)", "lambda: 1",
    "(x := 1)", "x := 1", "1; 2", "import evil", "from evil import x", "from os import *", "import os, subprocess",
    "@a(reader='os.system')", "@a(1)", "@a.forward(1)", "@a._modules", "-" * 1900 + "1", "(" * 500 + "1" + ")" * 500,
    "await x", "yield 1", "b'bytes'", "1j", "...", "type('X', (), {})", "_medseg_reference_['a']", "input()", "1 << 10**9",
    "(1).__reduce__()", "pathlib.Path('x').write_text('y')", "pathlib.Path('x').replace('y')", "'a'.join(['b'])",
    "glob.glob('/proc/**/*', recursive=True)[0]", "len(glob.glob('*'))", "json.codecs.open('x')", "os.path.os.system('x')",
    "len(open('/dev/zero').read())", "numpy.ones(shape=[100000])", "numpy.save('x', 1)", "torch.save(@a, 'x')",
    "sum([[0] * 9000] * 9000, [])", "math.prod([10**30] * 1000)", "sorted([1], key=len)", "max([1], key=len)",
    "round(5, -10**9)", "int('9' * 5000)", "len(range(10**30))", "str([1])", "1 // 0", "[][1]", "{}['a']", "1 + 'a'",
    "min(@a)", "@a + @a", "[@a]", "@a == @a", "{**@a}", "[*@a]", "~1", "1 | 2", "1 @ 2", "del x", "os", "sys.modules",
    "'x' * @n", "@s * 100000", "(@l + @l) * 1000", "os.path.exists('/etc/passwd')", "zip(@l, @l) * 9000",
]  # fmt: skip
VALUES: dict[str, Any] = {"a": torch.nn.ReLU(), "n": 10**9, "s": "abc", "l": [1] * 3000}


@pytest.mark.parametrize("expression", FORBIDDEN, ids=[entry[:40] for entry in FORBIDDEN])
def test_everything_else_is_refused(expression: str) -> None:
    with pytest.raises(GrammarError):
        evaluate(expression, VALUES)


def test_shared_lists_are_counted_each_time() -> None:
    grown: Any = [1, 1]
    for _ in range(60):
        grown = [grown, grown]
    for expression in ("@x == @x", "len(@x)", "@x[0]"):
        with pytest.raises(GrammarError, match="more than"):
            evaluate(expression, {"x": grown})


def test_a_form_is_recognised_as_a_whole_only() -> None:
    known = [
        "@a.run()",
        "list(sorted(glob.glob(@f + '/*.nii.gz')))",
        "monai.utils.set_determinism(seed=3)",
        "@a.to(@b)",
    ]
    for text in known:
        _, form = judged(text, {})
        assert form is not None, text
        for around in (f"[{text}]", f"len({text})", f"({text}).x", f"{text} + 1"):
            with pytest.raises(GrammarError):
                judged(around, {})
    for text in (
        "list(sorted(glob.glob(open('x', 'w'))))",
        "monai.handlers.from_engine(exec('x'))",
        "@a.run(@b)",
        "@a.to(@b).x",
        "monai.utils.set_determinism(seed=exec('x'))",
        "lambda x: exec('x')",
        "lambda x=exec('x'): None",
        "torch.device('cuda:0' if exec('x') else 'cpu')",
        "[{'image': path} for path in glob.glob(exec('x'))]",
        "lambda x: x[__import__('os'):]",
    ):
        with pytest.raises(GrammarError):
            judged(text, {})


def test_forms_that_are_left_undone_have_nothing_to_do() -> None:
    assert all(form.make is None and form.role == "unused" for form in LEFT_UNDONE)


def test_functions_of_tensors_compute_what_they_say() -> None:
    _, found = judged("lambda x: torch.where(x[[2]] > 0, 4, torch.where(x[[0]] > 0, 1, 0))", {})
    assert found is not None
    assert found[0].make is not None
    function = found[0].make(found[1])
    assert function(torch.tensor([[1.0], [0.0], [0.0]])).tolist() == [[1]]
    assert function(torch.tensor([[1.0], [0.0], [2.0]])).tolist() == [[4]]
    assert function(torch.tensor([[0.0], [3.0], [0.0]])).tolist() == [[0]]


def test_import_statements_only_name_things() -> None:
    assert imported_names(parse("from pathlib import Path as P")) == {"P": "pathlib.Path"}
    assert imported_names(parse("import numpy as np")) == {"np": "numpy"}
    assert references("@a + @b#c::d") == ["a", "b::c::d"]


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=string.printable, max_size=60))
def test_any_text_is_computed_or_refused(text: str) -> None:
    with contextlib.suppress(GrammarError):
        evaluate(text, {"a": 1})
