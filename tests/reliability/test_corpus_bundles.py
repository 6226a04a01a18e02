"""R1 for lists, datasets and bundles: refused by the whole command, in one line, with nothing written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.bundle.samples import make_bundle
from tests.corpus.command_inputs import BUNDLES, COMMANDS, DATASETS, LISTS
from tests.reliability.commands import PRELOAD_TORCH, run_commands

pytestmark = pytest.mark.requirement("R1")

QUICK = [*LISTS, *DATASETS, "bundle without weights"]


@pytest.mark.parametrize(
    "names", [QUICK, pytest.param(list(BUNDLES), marks=pytest.mark.slow)], ids=["quick", "bundles"]
)
def test_broken_lists_datasets_and_bundles_are_refused_in_one_line(tmp_path: Path, names: list[str]) -> None:
    bundle = tmp_path / "sound"
    make_bundle(bundle)
    commands, outputs = [], []
    for number, name in enumerate(names):
        folder = tmp_path / str(number)
        folder.mkdir()
        outputs.append(tmp_path / f"output_{number}")
        commands.append(
            [str(outputs[-1]) if word == "OUT" else word for word in COMMANDS[name].prepare(folder, bundle)]
        )
    wrong = {}
    for name, ran, output in zip(names, run_commands(commands, preload=PRELOAD_TORCH), outputs, strict=True):
        left = [path.name for path in output.rglob("*") if path.is_file()] if output.exists() else []
        one_line = len(ran.err.splitlines()) == 1 and ran.err.startswith("medseg: ")
        if ran.code not in (1, 2) or not one_line or not re.search(COMMANDS[name].error, ran.err) or left:
            wrong[name] = (ran.code, ran.err[-600:], left)
    assert wrong == {}
