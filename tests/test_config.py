from __future__ import annotations

import json
from pathlib import Path

import pytest

from medseg.config import apply_overrides, check_override, parse_overrides, read_config
from medseg.devices import choose_device
from medseg.errors import ConfigError

CONFIG = {
    "learning_rate": 0.1,
    "train": {"trainer": {"_target_": "pathlib.Path"}, "steps": [1, 2, 3]},
    "loss": {"_target_": "medseg.errors.nearest", "word": "a", "known": []},
    "network_def": {"_target_": "collections.OrderedDict"},
}


def test_override_values_are_json_where_they_read_as_json() -> None:
    assert parse_overrides(["a::b=[1, 2]", "c=true", "d=text", "e=1e-3", "f=null"]) == {
        "a::b": [1, 2], "c": True, "d": "text", "e": 1e-3, "f": None,
    }  # fmt: skip


@pytest.mark.parametrize("word", ["novalue", "=3"])
def test_a_word_without_key_or_value_is_refused(word: str) -> None:
    with pytest.raises(ConfigError, match="key::path=value"):
        parse_overrides([word])


def test_a_misspelt_key_is_refused_and_the_nearest_is_named() -> None:
    with pytest.raises(ConfigError, match="learning_rate"):
        check_override(CONFIG, "lerning_rate")


def test_a_key_that_only_the_signature_knows_is_accepted() -> None:
    assert apply_overrides(CONFIG, {"loss::count": 5})["loss"]["count"] == 5


def test_a_key_that_the_signature_does_not_know_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'cuont' in loss.*count"):
        apply_overrides(CONFIG, {"loss#cuont": 5})


def test_list_items_are_reached_by_index_and_checked() -> None:
    assert apply_overrides(CONFIG, {"train::steps::1": 7})["train"]["steps"] == [1, 7, 3]
    with pytest.raises(ConfigError, match="list of 3"):
        apply_overrides(CONFIG, {"train::steps::3": 7})


def test_overriding_leaves_the_original_alone() -> None:
    before = json.dumps(CONFIG)
    apply_overrides(CONFIG, {"learning_rate": 1.0})
    assert json.dumps(CONFIG) == before


def test_later_files_win(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"x": 1, "y": {"z": 1}}')
    (tmp_path / "b.json").write_text('{"x": 2, "+y": {"w": 3}}')
    assert read_config([tmp_path / "a.json", tmp_path / "b.json"]) == {"x": 2, "y": {"z": 1, "w": 3}}


def test_a_path_in_a_stacked_file_sets_one_value_deep_inside(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"train": {"steps": [1, 2], "rate": 3}}')
    (tmp_path / "b.json").write_text('{"train::steps::0": 9}')
    assert read_config([tmp_path / "a.json", tmp_path / "b.json"]) == {"train": {"steps": [9, 2], "rate": 3}}
    (tmp_path / "b.json").write_text('{"train::stesp": 9}')
    with pytest.raises(ConfigError, match="steps"):
        read_config([tmp_path / "a.json", tmp_path / "b.json"])


def test_broken_json_is_named_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"x": }')
    with pytest.raises(ConfigError, match=r"a\.json: is not valid JSON.*line 1"):
        read_config([tmp_path / "a.json"])


def test_a_device_that_is_not_here_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no CUDA device|only cuda:0|cuda:0 to"):
        choose_device("cuda:97")
    with pytest.raises(ConfigError, match="none of"):
        choose_device("gpu")
