"""What must be spelled once: paths inside a bundle, the reading of JSON, the walk along an id, the targets of bundle files."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import medseg.components
from medseg.layout import Layout, RunFolder
from medseg.renamed import current
from tests.architecture.test_floors import MEDSEG, ROOT

LAYOUT = ROOT / "medseg" / "layout.py"
HOMES_OF_JSON = {
    "medseg/documents.py": "read_json, with every limit",
}


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for path in MEDSEG:
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def bundle_words() -> set[str]:
    """Names of files and folders inside a bundle, as layout.py has them."""
    words: set[str] = set()
    for record in (Layout(Path("B")), RunFolder(Path("B"))):
        for name, value in vars(type(record)).items():
            if isinstance(value, property):
                found = getattr(record, name)
                for path in found if isinstance(found, tuple) else (found,):
                    words |= set(Path(path).parts[1:])
    # words that folders of data sets and reports use as well
    return words - {"docs", "LICENSE", "README.md", "labels.json", "report.html"}


def test_paths_inside_a_bundle_are_spelled_in_layout_only() -> None:
    words, found = bundle_words(), []
    assert {"configs", "inference.json", "model.pt", "runs", "last.ckpt", "plan.json"} <= words
    for path, tree in trees():
        if path == LAYOUT:
            continue
        for node in ast.walk(tree):
            divides = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)
            if divides and isinstance(node.right, ast.Constant) and set(str(node.right.value).split("/")) & words:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}: / {node.right.value!r}")
    assert not found, "ask medseg.layout for these:\n" + "\n".join(found)


def calls(name: str) -> list[str]:
    """Files of medseg in which something of this name is called."""
    found = []
    for path, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and name in (getattr(node.func, "id", ""), getattr(node.func, "attr", "")):
                found.append(path.relative_to(ROOT).as_posix())
    return sorted(set(found))


def test_settings_become_a_predictor_in_one_place() -> None:
    assert calls("Predictor") == ["medseg/bundle/predictor.py"]
    assert calls("label_settings") == ["medseg/bundle/load.py"]


def test_plan_json_decides_no_label() -> None:
    found = []
    for path, tree in trees():
        name = path.relative_to(ROOT).as_posix()
        if not name.startswith(("medseg/inference/", "medseg/cases/", "medseg/bundle/predictor")):
            continue
        found += [
            f"{name}:{n.lineno}"
            for n in ast.walk(tree)
            if isinstance(n, ast.Attribute) and ast.unparse(n).endswith("plan.inference")
        ]
    assert not found, "inference.json holds what decides labels (bundle.label_settings):\n" + "\n".join(found)


def test_json_files_are_read_by_one_function() -> None:
    found = []
    for path, tree in trees():
        if path.relative_to(ROOT).as_posix() in HOMES_OF_JSON:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and re.fullmatch(r"json\.loads?", ast.unparse(node.func)):
                text = ast.unparse(node)
                if (
                    ("read_text" in text and "files(" not in text)
                    or "read_bytes" in text
                    or text.startswith("json.load(")
                ):
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {text}")
    assert not found, "use medseg.config.read_json:\n" + "\n".join(found)


def test_ids_are_walked_by_one_function() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path, tree in trees()
        for node in ast.walk(tree)
        if path != ROOT / "medseg" / "config.py"
        and isinstance(node, ast.For)
        and "split('::')" in ast.unparse(node.iter)
    ]
    assert not found, "use medseg.config.steps_of or look_up:\n" + "\n".join(found)


def targets_in(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("_target_"), str):
            yield node["_target_"]
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from targets_in(child)


@pytest.mark.parametrize(
    "path",
    sorted([*(ROOT / "bundles").rglob("*.json"), *(ROOT / "configs").rglob("*.json")]),
    ids=lambda p: p.relative_to(ROOT).as_posix(),
)
def test_files_that_we_ship_name_our_parts_by_their_frozen_names(path: Path) -> None:
    for target in targets_in(json.loads(path.read_text(encoding="utf-8"))):
        if target.startswith("medseg"):
            assert target.removeprefix("medseg.components.") in medseg.components.HOMES, target


def test_code_that_writes_bundle_files_names_our_parts_by_their_frozen_names() -> None:
    homes = {f"{module}.{name}" for name, module in medseg.components.HOMES.items()}
    found, written = [], set()
    for path, tree in trees():
        if path.name in ("components.py", "renamed.py") and path.parent == ROOT / "medseg":
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                if current(node.value) in homes:
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.value}")
                if node.value.startswith("medseg.components."):
                    written.add(node.value.removeprefix("medseg.components."))
    assert not found, "write medseg.components.NAME:\n" + "\n".join(found)
    assert written
    assert written <= set(medseg.components.HOMES)
