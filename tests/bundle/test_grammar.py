"""The expression grammar computes what Python would, opens what the model zoo writes, and refuses everything else."""

from __future__ import annotations

import contextlib
import string
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.bundle.opening.grammar import GrammarError, check, imported_names, parse, references
from medseg.bundle.opening.interpreter import evaluate
from medseg.bundle.opening.targets import TargetError, check_component
from tests.bundle.zoo_expressions import KINDS, OWN_CODE, TARGETS, ZOO

ALIASES = {
    "Path": "pathlib.Path",
    "datetime": "datetime.datetime",
    "pd": "pandas",
    "mn": "monai.networks",
    "Image": "PIL.Image",
    "draw": "scripts.utils.draw",
}

ANSWERS: list[tuple[str, dict[str, Any], Any]] = [
    ("@root + '/out'", {"root": "a"}, "a/out"),
    ("@a#b + @a::b", {"a::b": 2}, 4),
    ("[{'image': i} for i in @l if i > 1]", {"l": [1, 2, 3]}, [{"image": 2}, {"image": 3}]),
    ("{k: v for k, v in @d.items()}", {"d": {"x": 1}}, {"x": 1}),
    ("((@large - @small) // 2,) * 4", {"large": 10, "small": 4}, (3, 3, 3, 3)),
    ("1 < @x <= 3 and not @y", {"x": 3, "y": False}, True),
    ("@x[1:][::-1]", {"x": [1, 2, 3]}, [3, 2]),
    ("f'{@x:02d}_{@y!r}'", {"x": 7, "y": "z"}, "07_'z'"),
    ("list(set([1, 2, 3]) - {2})", {}, [1, 3]),
    ("(lambda: 1) if False else 2", {}, 2),
    ("max(len(x) for x in @words)", {"words": ["a", "bcd"]}, 3),
    ("2 ** 10 % 7 or 5", {}, 2),
    ("np.float32", {}, np.float32),
    ("import glob", {}, None),
    ("setattr(torch.backends.cudnn, 'benchmark', True)", {}, None),
]


@pytest.mark.parametrize(("expression", "given_values", "answer"), ANSWERS, ids=[entry[0] for entry in ANSWERS])
def test_value_is_what_python_gives(expression: str, given_values: dict[str, Any], answer: Any) -> None:
    assert evaluate(expression, given_values) == answer


def test_lambda_computes_on_tensors() -> None:
    function = evaluate("lambda x: torch.where(x[[2]] > 0, 4, torch.where(x[[0]] > 0, 1, 0))")
    assert function(torch.tensor([[1.0], [0.0], [0.0]])).tolist() == [[1]]
    assert function(torch.tensor([[1.0], [0.0], [2.0]])).tolist() == [[4]]
    swallow = evaluate("lambda batch, *_, **__: (batch, None)")
    assert swallow(1, 2, device=3) == (1, None)
    with pytest.raises(TypeError, match="expected the arguments"):
        evaluate("lambda x: x")(1, 2)


FORBIDDEN = [
    "__import__('os').system('x')", "open('x', 'w')", "eval('1')", "exec('1')", "os.system('x')", "().__class__",
    "torch.nn.functional.torch.os.system('x')", "monai.utils.run_cmd('x')", "torch.hub.load('a', 'b')",
    "np.load('x', allow_pickle=True)", "torch.load.__globals__", "getattr(1, 'real')", "globals()", "vars()",
    "setattr(@a, 'b', 1)", "setattr(torch, 'load', print)", "'{0.__class__}'.format(1)", "f'{1:>1000000000}'",
    "'%1000000000d' % 1", "9**9**9", "'a' * 10**9", "[0] * 10**9", "list(range(10**9))", "torch.ones(10**6, 10**6)",
    "[i for i in range(10**6) for j in range(10**6)]", "[f(f) for f in [lambda f: f(f)]]", "(lambda f: f)(1)",
    "x := 1", "1; 2", "import evil", "from evil import x", "from os import *", "import os, subprocess",
    "lambda x=open('x'): x", "@a.forward(1)", "@a._modules", "-" * 5000 + "1", "(" * 500 + "1" + ")" * 500,
    "await x", "yield 1", "b'bytes'", "1j", "print", "type('X', (), {})", "_medseg_reference_['a']", "input()",
    "json.loads.__globals__", "(1).__reduce__()", "pathlib.Path('x').write_text('y')", "pathlib.Path('x').unlink()",
    "glob.os.system('x')", "json.codecs.open('x')", "os.path.os.system('x')",
]  # fmt: skip


@pytest.mark.parametrize("expression", FORBIDDEN, ids=[entry[:40] for entry in FORBIDDEN])
def test_everything_else_is_refused(expression: str) -> None:
    if expression == "print":
        assert evaluate(expression) is print  # a harmless word, kept here to show that words alone are not refused
        return
    with pytest.raises(GrammarError):
        evaluate(expression, {"a": torch.nn.ReLU()})


def opens(name: str) -> bool:
    try:
        for kind in ZOO[name]:
            check(KINDS[kind], aliases=ALIASES)
    except GrammarError:
        return False
    return True


def test_model_zoo_opens_but_for_four() -> None:
    """At least 25 of the zoo's inference files hold only expressions of the grammar; the others are known by name."""
    closed = {name for name in ZOO if not opens(name)}
    assert closed == {
        "brats_mri_axial_slices_generative_diffusion",  # draws with a function of its own
        "maisi_ct_generative",  # checks its input with one
        "pathology_nuclei_classification",  # registers a writer of its own
        "prostate_mri_anatomy",  # takes a column of a table as an attribute
    }
    assert len(ZOO) - len(closed) >= 25
    assert set(ZOO) >= OWN_CODE


def refused_targets(name: str) -> list[str]:
    """Why the components that a file names are not allowed."""
    reasons = []
    for component in TARGETS[name]:
        try:
            check_component({"_target_": component} if isinstance(component, str) else component)
        except TargetError as error:
            reasons.append(str(error))
    return reasons


def test_model_zoo_opens_with_its_targets_unless_it_brings_code() -> None:
    """Half of the files name Python of their own as targets and rightly need --trust; four of the others do as well."""
    assert len(ZOO) == 29
    assert len(OWN_CODE) == 15
    assert set(TARGETS) == set(ZOO) - OWN_CODE
    closed = {name for name in TARGETS if not opens(name) or refused_targets(name)}
    assert closed == {
        "inbody_outbody_classification",  # a transform that MONAI 1.6 no longer has
        "pathology_nuclei_classification",  # registers a writer of its own
        "pathology_tumor_detection",  # downloads pretrained weights
        "prostate_mri_anatomy",  # takes a column of a table as an attribute
    }
    with pytest.raises(TargetError, match="not on the list"):
        check_component({"_target_": "scripts.custom.Network"})


def test_every_kind_is_used() -> None:
    assert {kind for kinds in ZOO.values() for kind in kinds} == set(KINDS)


def test_import_statements_only_name_things() -> None:
    assert imported_names(parse("from pathlib import Path as P")) == {"P": "pathlib.Path"}
    assert imported_names(parse("import numpy as np")) == {"np": "numpy"}
    assert references("@a + @b#c::d") == ["a", "b::c::d"]


def test_torch_load_reads_tensors_only(tmp_path: Any) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "good.pt")
    torch.save({"weight": SimpleNamespace(a=1)}, tmp_path / "bad.pt")
    values = {"file": str(tmp_path / "good.pt"), "bad": str(tmp_path / "bad.pt")}
    assert evaluate("torch.load(@file, weights_only=False)['weight']", values).tolist() == [1, 1]
    with pytest.raises(ValueError, match="only plain tensors"):
        evaluate("torch.load(@bad, weights_only=False)", values)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=string.printable, max_size=60))
def test_any_text_is_computed_or_refused(text: str) -> None:
    """Nothing but GrammarError, or the error of an honest computation such as 1/0."""
    honest = (ArithmeticError, TypeError, ValueError, KeyError, IndexError, AttributeError, OSError)
    with contextlib.suppress(GrammarError, *honest):
        evaluate(text, {"a": 1})
