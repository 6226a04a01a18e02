"""What a run was asked for: the words that it may be said with, its journey as JSON, and what is refused before anything is read."""

from __future__ import annotations

import dataclasses
import json
import typing
from pathlib import Path

import pytest

from medseg.cases.outputs import OutputOptions
from medseg.commands.asked import FORMATS, Asked, Words
from medseg.errors import ConfigError
from medseg.inference.settings import PredictOptions


def test_the_words_are_the_fields_of_both_records_with_their_types() -> None:
    outputs, asked = typing.get_type_hints(OutputOptions), typing.get_type_hints(Asked)
    fields = {**outputs, **asked}
    for name in ("folder", "outputs", "options", "trust"):  # arguments of their own
        del fields[name]
    assert typing.get_type_hints(Words) == fields


def test_words_find_their_record_and_defaults_stay() -> None:
    asked = Asked.of("out", None, False, Words(preview=False, suffix="nrrd", anyway=True))
    assert asked == Asked(OutputOptions(Path("out"), ".nrrd", preview=False), PredictOptions(), anyway=True)


def test_a_record_comes_back_from_json_as_it_went() -> None:
    options = PredictOptions(device="cpu", mirror=(0, 2), overlap=0.25, fold=1)
    asked = Asked(OutputOptions(Path("a") / "b", ".mha", statistics=True), options, anonymous_names=True)
    back = Asked.from_dict(json.loads(json.dumps(asked.to_dict())), trust=False)
    assert back == asked
    asked = dataclasses.replace(asked, options=PredictOptions(mirror=()), trust=lambda _: True)
    assert Asked.from_dict(json.loads(json.dumps(asked.to_dict())), trust=asked.trust) == asked


@pytest.mark.parametrize(
    ("words", "options", "message"),
    [
        (Words(suffix=".stl"), None, "'.stl'.*" + FORMATS[0]),
        (Words(), PredictOptions(overlap=1.0), "--overlap 0.5"),
        (Words(), PredictOptions(device="cuda:99"), "cuda:99"),
    ],
)
def test_what_no_model_can_do_is_refused_first(words: Words, options: PredictOptions | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Asked.of("out", options, False, words)
