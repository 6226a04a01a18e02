"""The surface people build on grows on purpose only: verbs, options, exit codes, public names.

After a wanted change: `python -m tests.architecture.test_surface` writes the new list; review its diff.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import medseg
import medseg.components
import medseg_kernels
from medseg.cli.main import VERBS, build_parser, main
from medseg.renamed import MODULES, NAMES

ROOT = Path(__file__).resolve().parents[2]
FROZEN = Path(__file__).with_name("surface.json")


def options_of(parser: argparse.ArgumentParser) -> list[str]:
    found = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, child in action.choices.items():
                found += [f"{name} {option}" for option in options_of(child)] or [name]
        elif not isinstance(action, argparse._HelpAction):
            found.append(" ".join(action.option_strings) or str(action.metavar or action.dest))
    return sorted(found)


def surface() -> dict[str, Any]:
    parser = build_parser()
    verbs = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction)).choices
    return {
        "verbs": {name: options_of(verbs[name]) for name in VERBS},
        "medseg": sorted(medseg.__all__),
        "medseg_kernels": sorted(medseg_kernels.__all__),
        "components": sorted(medseg.components.HOMES),
        "folders": {
            module.__name__: sorted(module.__all__)
            for path in sorted((ROOT / "medseg").rglob("__init__.py"))
            if len(path.relative_to(ROOT).parts) > 2
            and hasattr(module := importlib.import_module(".".join(path.relative_to(ROOT).parent.parts)), "__all__")
        },
        "names of 0.1": len(MODULES) + len(NAMES),
    }


def test_every_frozen_component_is_there_under_its_name() -> None:
    for name in medseg.components.HOMES:
        assert getattr(medseg.components, name).__name__ == name


def test_every_name_of_an_earlier_version_still_leads_somewhere() -> None:
    for old, new in MODULES.items():
        assert importlib.util.find_spec(new) is not None, f"{old} -> {new}"
    for old, new in NAMES.items():
        module, _, name = new.rpartition(".")
        assert hasattr(importlib.import_module(module), name), f"{old} -> {new}"
        if importlib.util.find_spec(old.rpartition(".")[0]) and not old.startswith("medseg_kernels"):
            found = getattr(importlib.import_module(old.rpartition(".")[0]), name)
            assert found is getattr(importlib.import_module(module), name), old


def test_the_surface_is_the_committed_one() -> None:
    assert surface() == json.loads(FROZEN.read_text(encoding="utf-8"))


def test_help_answers_without_torch_in_half_a_second() -> None:
    code = (
        "import sys; from medseg.cli.main import main; main(['--help']); print('torch' in sys.modules, file=sys.stderr)"
    )
    seconds = []  # of the processor: another test beside this one takes its share of the clock on the wall
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert done.stderr.strip() == "False"
    assert all(verb in done.stdout for verb in VERBS)
    assert min(seconds) < 0.5


def test_every_verb_answers_help_without_torch() -> None:
    code = (
        "import sys\nfrom medseg.cli.main import VERBS, main\n"
        "for verb in VERBS:\n    assert main([verb, '--help']) == 0, verb\n    assert 'torch' not in sys.modules, verb"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


def test_a_misspelt_verb_is_a_usage_error_that_names_the_nearest(capsys: Any) -> None:
    assert main(["pedict"]) == 2
    assert "predict" in capsys.readouterr().err


if __name__ == "__main__":
    FROZEN.write_text(json.dumps(surface(), indent=2) + "\n", encoding="utf-8")
