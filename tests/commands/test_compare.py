"""`medseg compare` on folders of label maps: who is better, files written, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medseg.cli.main import EXIT_OK, main
from medseg.commands.compare import system_names
from medseg.errors import ConfigError
from medseg.io.header import Header
from medseg.io.volume import write_label

SHAPE = (12, 9, 8)


def _write(path: Path, length: int, label: int = 1) -> None:
    array = np.zeros(SHAPE, dtype=np.uint8)
    array[2 : 2 + length, 2:6, 2:6] = label
    path.parent.mkdir(parents=True, exist_ok=True)
    write_label(path, array, like=Header.of_array(SHAPE, np.eye(4)))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 cases; `good` is half a voxel off in the mean, `bad` two to four, `other` has one case less."""
    root = tmp_path_factory.mktemp("compared")
    for case in range(12):
        name = f"case_{case:02}.nii.gz"
        _write(root / "reference" / name, 6)
        _write(root / "good" / name, 6 + case % 2)
        _write(root / "bad" / name, 4 - case % 3)
        if case:
            _write(root / "other" / name, 6)
    return root


def words(root: Path, *names: str) -> list[str]:
    return [
        "compare",
        "--reference",
        str(root / "reference"),
        *(w for n in names for w in ("--prediction", str(root / n))),
    ]


def test_the_better_folder_is_named_and_the_page_is_written(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words(folders, "good", "bad"), "--labels", "1=organ", "--output", str(tmp_path / "out")]) == EXIT_OK
    said = capsys.readouterr().out
    assert "good - bad" in said
    assert "12 cases: intervals of fewer than 50" in said
    facts = json.loads((tmp_path / "out/comparison.json").read_text())
    assert facts["primary"][0]["verdict"] == "good"
    assert {entry["metric"] for entry in facts["secondary"]} == {"nsd", "hd95_mm"}
    assert all(entry["verdict"] == "good" for entry in facts["secondary"])
    page = (tmp_path / "out/report.html").read_text()
    assert "Scores of good" in page
    assert "Scores of bad" in page
    assert (tmp_path / "out/good.csv").is_file()


def test_other_cases_are_refused_and_common_compares_the_rest(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(folders, "good", "other")) != EXIT_OK
    assert "case_00" in capsys.readouterr().err
    assert main([*words(folders, "good", "other"), "--cases", "common", "--json"]) == EXIT_OK
    assert json.loads(capsys.readouterr().out)["primary"][0]["cases"] == 11


def test_a_label_that_only_one_system_predicts_is_undefined_for_the_other(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for case in range(12):
        _write(tmp_path / "odd" / f"case_{case:02}.nii.gz", 6, label=1 + (case == 3))
    assert main(["compare", "--reference", str(folders / "reference"), "--prediction", f"odd={tmp_path / 'odd'}",
                 "--prediction", str(folders / "good"), "--json"]) == EXIT_OK  # fmt: skip
    facts = json.loads(capsys.readouterr().out)
    second = [entry for entry in facts["secondary"] if entry["label"] == "2" and entry["metric"] == "dice"]
    assert [entry["cases"] for entry in second] == [0]


def test_names_of_systems_are_no_paths_and_a_file_each(folders: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    named = [f"../A b={folders / 'good'}", f"../a b={folders / 'bad'}"]
    words = ["compare", "--reference", str(folders / "reference"), "--output", str(out), "--quiet"]
    assert main([*words, *(word for name in named for word in ("--prediction", name))]) == EXIT_OK
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert len({path.name.casefold() for path in out.glob("*.csv")}) == 2


def test_one_folder_alone_and_one_name_twice_are_refused(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(folders, "good")) != EXIT_OK
    assert "repeat --prediction" in capsys.readouterr().err
    assert list(system_names(["a/labels", "b/labels"])) == ["labels", "b_labels"]
    with pytest.raises(ConfigError, match="NAME="):
        system_names(["x=a/labels", "x=b/labels", "x=b/labels"])
