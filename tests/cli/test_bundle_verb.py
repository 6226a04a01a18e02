"""`medseg bundle ...` as words on a command line: exit codes, one-line errors, JSON, and the page for hospitals."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from pathlib import Path

import pytest

from medseg.bundle.catalogue import known_bundles
from medseg.cli.main import main
from medseg.layout import Layout
from tests.bundle.samples import make_bundle

PAGE = Path(__file__).parents[2] / "docs" / "clinic_offline.md"


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    monkeypatch.setenv("MEDSEG_BUNDLES", str(tmp_path / "installed"))
    monkeypatch.setenv("MEDSEG_TRUSTED", str(tmp_path / "trusted.json"))
    monkeypatch.chdir(tmp_path)
    return make_bundle(tmp_path / "my_organ_ct", tmp_path / "data", name="my_organ_ct")


def test_verify_says_what_is_wrong_and_exits_with_1(bundle: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bundle", "verify", str(bundle.folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True
    bundle.license.unlink()
    assert main(["bundle", "verify", str(bundle.folder)]) == 1
    assert "LICENSE is missing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["verify", "no_such_bundle"], "no bundle 'no_such_bundle'"),
        (["install", "missing.zip"], "no such file"),
        (["export", "my_organ_ct", "--to", "onnx"], "models/model.pt"),
    ],
    ids=["verify", "install", "export"],
)
def test_errors_are_one_line(words: list[str], text: str, bundle: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    bundle.weights.unlink()
    assert main(["bundle", *words]) == 1
    error = capsys.readouterr().err.strip()
    assert text in error
    assert "\n" not in error


def test_unknown_format_is_a_usage_error(bundle: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bundle", "export", str(bundle.folder), "--to", "tensorrt"]) == 2
    assert "torchscript" in capsys.readouterr().err


def commands_of_the_page() -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines() if line.strip()]


def test_commands_of_the_hospital_page_run(bundle: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    """pack stands last on the page, since it is for one's own model; its zip is what the first commands install."""
    commands = commands_of_the_page()
    assert [words[2] for words in commands] == ["install", "verify", "pack"]
    assert main(commands[-1][1:]) == 0
    packed = Path("my_organ_ct_v0.1.0.zip")
    digest = hashlib.sha256(packed.read_bytes()).hexdigest()
    assert digest in capsys.readouterr().out
    table = {"NAME_v0.1.0.zip": str(packed), "HEX": digest, "NAME": "my_organ_ct"}
    bundle.folder.rename("elsewhere")  # from here on the name is found among the installed bundles only
    for words in commands[:-1]:
        assert main([table.get(word, word) for word in words[1:]]) == 0, capsys.readouterr()
    assert "my_organ_ct" in known_bundles()
