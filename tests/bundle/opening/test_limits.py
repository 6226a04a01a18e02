"""A small file that asks for much work: refused in bounded time, whatever part of the evaluator would have to do it."""

from __future__ import annotations

import time
from typing import Any

import pytest

from medseg.bundle.opening.expressions import MAX_LIVE, inert_nodes
from medseg.bundle.opening.grammar import MAX_SECONDS
from medseg.bundle.opening.parser import SafeConfig, check_config
from medseg.bundle.opening.reader import MAX_VALUES
from medseg.errors import BundleError, UntrustedBundleError

pytestmark = pytest.mark.requirement("R13")

# CPU seconds of this thread; the clock of expressions itself allows 1
MOST_S = 3 * MAX_SECONDS


@pytest.mark.parametrize(
    "values",
    [
        ["$sum([[1]] * 3000, [])"] * 20_000,
        ["$len(sorted(list(range(4000))))"] * 20_000,
        ["$1"] * 100_000,
        ["$import os"] * 100_000,
        ["$torch.device('cpu')"] * 100_000,
        [{"_target_": "Compose", "transforms": []}] * 100_000,
    ],
    ids=["sums", "sorted", "constants", "imports", "forms", "components"],
)
def test_many_expressions_share_one_clock(values: list[Any]) -> None:
    begin = time.thread_time()
    refusals = check_config({"x": values})
    assert time.thread_time() - begin < MOST_S
    assert refusals


def test_a_sum_of_lists_takes_as_long_as_its_result() -> None:
    config = SafeConfig({"x": "$len(sum([[1, 2]] * 1500, []))", "y": "$sum([1, 2.5])", "z": "$math.prod([2, 3])"})
    assert [config.get(name) for name in "xyz"] == [3000, 3.5, 6]
    for wrong in ("$sum(['a', 'b'], '')", "$sum([1], [])", "$math.prod([[1], 2])"):
        assert check_config({"x": wrong})


def test_plain_data_of_any_kind_is_read_at_the_speed_of_a_walk() -> None:
    table = {"cases": [{"image": f"{n}.nii.gz", "label": n} for n in range(50_000)], "x": "$@y + 1", "y": 1}
    begin = time.thread_time()
    assert check_config(table) == []
    assert time.thread_time() - begin < MOST_S
    assert id(table["cases"]) in inert_nodes(table)
    config = SafeConfig(table)
    assert config.get("cases") == table["cases"]
    assert config.get("x") == 2


def test_references_do_not_multiply_values() -> None:
    count = int(MAX_VALUES**0.5) + 10
    refusals = check_config({"x": list(range(count)), "y": ["@x"] * count})
    assert [refusal.key for refusal in refusals] == ["y"]


def test_what_is_live_is_counted() -> None:
    refusals = check_config({"x": [{"a": "@y"} for _ in range(MAX_LIVE)], "y": 1})
    assert "others" in str(refusals[0])


def test_keys_that_no_id_can_name_are_refused_where_something_live_is_below() -> None:
    assert SafeConfig({"x": {1: "one"}}).get("x") == {1: "one"}  # YAML may have them
    for key in ("a::b", "a#b", ""):
        assert check_config({"x": {key: "$1"}})
    assert check_config({"x": {1: ["$1"]}})


NET = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2}


@pytest.mark.parametrize(
    "network",
    [
        {"_target_": "UNet", **NET, "channels": [2, 4], "strides": [2], "num_res_units": 4000},
        {"_target_": "UNet", **NET, "channels": [4096, 4096, 4096], "strides": [2, 2], "num_res_units": 2},
    ],
    ids=["modules", "numbers"],
)
def test_a_network_of_a_million_layers_is_not_built(network: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medseg.bundle.opening.measured.MOST_MODULES", 500)
    monkeypatch.setattr("medseg.bundle.opening.measured.MOST_NUMBERS", 1_000_000)
    with pytest.raises(BundleError, match=r"network: UNet makes a network of more than \d+ (modules|numbers)"):
        SafeConfig({"network": network}).get("network")


def test_sizes_beyond_any_network_are_refused_before_it_is_built() -> None:
    for argument, value in (("channels", [10**9, 2]), ("channels", [1] * 65), ("num_res_units", 10**9)):
        with pytest.raises(UntrustedBundleError, match=argument):
            SafeConfig(
                {"network": {"_target_": "UNet", **NET, "channels": [2, 4], "strides": [2], argument: value}}
            ).get("network")
