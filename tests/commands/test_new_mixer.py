"""docs/new_mixer.md runs as it stands: its files are written, its commands are given."""

from __future__ import annotations

import json
import re
import shlex
import zipfile
from pathlib import Path

import pytest

from medseg.bundle.load import load_bundle
from medseg.cli.main import main
from tests.volumes import make_case

PAGE = Path(__file__).resolve().parents[2] / "docs" / "new_mixer.md"
QUICK = ["max_epochs=1", "steps_per_epoch=1", "batch_size=1", "num_workers=0", "train::trainer::tracking=false"]


def test_the_page_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDSEG_TRUSTED", str(tmp_path / "trusted.json"))
    monkeypatch.chdir(tmp_path)
    for number in range(4):
        make_case(tmp_path / "data", f"ball_{number}", radius=4.0, seed=number)
    text = PAGE.read_text(encoding="utf-8")
    Path("my_code").mkdir()
    files = re.findall(r"`(my_code/\w+\.py)`:\n\n```python\n(.*?)```", text, flags=re.DOTALL)
    assert [name for name, _ in files] == ["my_code/__init__.py", "my_code/mixers.py"]
    for name, code in files:
        Path(name).write_text(code, encoding="utf-8")
    Path("mine.json").write_text(re.findall(r"```json\n(.*?)```", text, flags=re.DOTALL)[0], encoding="utf-8")
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    commands = [line for language, block in blocks if not language for line in block.splitlines()]
    assert [command.split()[1] for command in commands] == ["plan", "fit", "predict", "bundle", "fit"]
    for command in commands:
        words = shlex.split(command)[1:]
        assert main([*words, *(QUICK if words[0] == "fit" else []), "--quiet"]) == 0, command
    assert load_bundle("my_bundle").own_network_def["mixer"] == "mean"
    assert len(list(Path("labels").glob("*.nii.gz"))) == 4
    assert any(name.endswith("my_code/mixers.py") for name in zipfile.ZipFile("my_bundle.zip").namelist())
    config = json.loads(Path("my_bundle/runs/fold_1/config.json").read_text())
    assert config["train"]["module"]["loss"]["_target_"] == "monai.losses.TverskyLoss"
