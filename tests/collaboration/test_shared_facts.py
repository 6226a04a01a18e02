"""What sites tell of their data, and the plan that is made of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medseg.cli.main import main
from medseg.collaboration.shared_facts import describe, pool
from medseg.collaboration.sites import read_site
from medseg.config import read_json
from medseg.datasets import open_dataset
from medseg.errors import DataError
from medseg.layout import Layout
from medseg.planning.fingerprint import measure
from tests.volumes import make_case


def site(folder: Path, count: int, *, shape: tuple[int, int, int] = (20, 20, 20), value: int = 1) -> Path:
    for number in range(count):
        make_case(folder, f"case{number}", shape=shape, value=value, seed=number)
    return folder


def test_equal_sites_pool_to_the_fingerprint_of_one_and_unequal_ones_to_the_larger_ones_medians(tmp_path: Path) -> None:
    small, large = site(tmp_path / "a", 3), site(tmp_path / "b", 5, shape=(28, 20, 20))
    one = describe(open_dataset(small), 2)
    _, twice = pool({"a": one, "b": one})
    alone = measure(open_dataset(small)).to_dict()
    same = ("median_shape", "median_spacing", "label_volume_ml", "orientations", "label_pieces")
    pooled = twice.to_dict()
    assert {key: pooled[key] for key in same if key != "orientations"} == {
        key: alone[key] for key in same if key != "orientations"
    }
    assert pooled["cases"] == 2 * alone["cases"]
    assert pooled["label_cases"] == {"1": 6}
    assert pooled["orientations"] == {"RAS": 6}
    assert np.isclose(pooled["intensity"][0]["std"], alone["intensity"][0]["std"])
    _, both = pool({"a": one, "b": describe(open_dataset(large), 2)})
    assert both.median_shape == [28, 20, 20]
    assert both.largest_shape == [28, 20, 20]


def test_no_case_name_and_no_path_is_in_what_a_site_sends(tmp_path: Path) -> None:
    text = json.dumps(describe(open_dataset(site(tmp_path / "secret", 3)), 2))
    assert "case0" not in text
    assert "secret" not in text


def test_sites_that_disagree_are_named(tmp_path: Path) -> None:
    messages = {
        name: describe(open_dataset(site(tmp_path / name, 2, value=value)), 2) for name, value in (("a", 1), ("b", 2))
    }
    with pytest.raises(DataError, match=r"'a' and 'b' differ in their labels"):
        pool(messages)


def test_a_plan_of_folders_and_fingerprint_files_gives_each_site_a_bundle_of_its_own(tmp_path: Path) -> None:
    here, away = site(tmp_path / "a", 3), site(tmp_path / "b", 5)
    sent, bundle = tmp_path / "b.json", tmp_path / "whole"
    assert main(["federate", "plan", "--describe", str(away), "--output", str(sent), "--folds", "2", "--quiet"]) == 0
    words = [
        "federate",
        "plan",
        "--sites",
        f"near={here}",
        f"far={sent}",
        "--output",
        str(bundle),
        "--folds",
        "2",
        "--quiet",
    ]
    assert main(words) == 0
    layout = Layout(bundle)
    assert read_site(layout.site("near").folder).data_folder == str(here)
    assert read_site(layout.site("far").folder).settings["share"] == 1.25
    assert "case0" in json.dumps(read_json(Layout(layout.site("near").folder).splits))
    for path in (layout.plan, layout.splits, layout.train, layout.metadata):
        assert "case0" not in path.read_text(encoding="utf-8"), path
    assert "shared to plan" in read_json(layout.plan)["reasons"]["sites"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["{a}"], "1 site was named"),
        (["x={a}", "x={a}"], "two sites are named 'x'"),
        (["server={a}", "b={a}"], "site 'server': expected a name"),
        (["{a}", "{a}/none"], "none"),
    ],
)
def test_wrong_sites_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], text: str
) -> None:
    folder = site(tmp_path / "a", 2)
    filled = [word.format(a=folder) for word in words]
    assert main(["federate", "plan", "--sites", *filled, "--output", str(tmp_path / "whole")]) == 1
    error = capsys.readouterr().err
    assert text in error
    assert error.count("\n") == 1


def test_without_nvflare_the_missing_extra_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["federate", "run", str(tmp_path), "--rounds", "1"]) == 1
    assert "medseg[federated]" in capsys.readouterr().err
