"""What can be overridden in train.json: every key with its value and meaning.

Meanings of arguments are read from the docstrings of our components, signatures from their source: nothing is imported.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from medseg.config import ABSENT, COMPONENTS, TARGET

MEANINGS = {
    "bundle_root": "folder of the bundle; set by medseg",
    "output_dir": "folder of the runs",
    "dataset_dir": "folder of the training data",
    "device": "where to train; better said with --device",
    "fold": "number of the fold; set by --fold",
    "seed": "start of every random number",
    "resume": "go on where the run stopped; set by --resume",
    "budget_s": "seconds for a fold; set by --budget",
    "pretrained": "weights to start from; set by --init-from",
    "initialize": "what is called first",
    "labels": "label value -> name",
    "roi_size": "voxels of a training patch, X, Y, Z",
    "batch_size": "patches per step, over all devices",
    "max_epochs": "epochs in all",
    "steps_per_epoch": "steps that are called an epoch",
    "val_interval": "epochs between validations on whole volumes",
    "num_workers": "loader processes; null chooses",
    "devices": "devices of each machine, which share a batch; null is one, auto all; set by --devices",
    "num_nodes": "machines that train together",
    "strategy": "ddp: each device has the whole network; fsdp2: each a share of it; auto is ddp",
    "micro_batch_size": "samples of a batch that a device holds at once; null takes its whole share",
    "preprocessing_def": "spacing, intensities, orientation; the same object predicts",
    "network_def": "the network",
    "network": "the network that is trained",
    "train": "what trains",
    "validate": "what validates",
    "run": "what is called to train",
    "augmentation": "how training images vary: a preset and the axes of mirroring",
    "handlers": "MONAI handlers that Lightning calls too",
    "data": "the cases themselves, where no dataset_dir is named",
    "ignore_label": "label value that teaches nothing",
    "experiment": "name of the MLflow experiment",
    "tracking": "log to MLflow",
}


class Key(NamedTuple):
    """One line of `medseg fit BUNDLE --keys`."""

    name: str
    value: Any
    meaning: str


def list_keys(config: Mapping[str, Any]) -> list[Key]:
    """Every key of a train.json, and every argument of our own components in it that is not set, with its default."""
    return list(_keys(config, "", ""))


def _keys(node: Mapping[str, Any], path: str, above: str) -> Iterator[Key]:
    facts = argument_facts(str(node.get(TARGET, "")))
    for name, value in node.items():
        if name.startswith("_"):
            continue
        full = f"{path}::{name}" if path else name
        meaning = _meaning(name, value, facts) or above
        if isinstance(value, Mapping) and value:
            yield from _keys(value, full, meaning)
        else:
            yield Key(full, value, meaning)
    for name, fact in facts.items():
        if name not in node and fact.default is not ABSENT:
            yield Key(f"{path}::{name}" if path else name, fact.default, fact.meaning or above)


def _meaning(name: str, value: object, facts: Mapping[str, Argument]) -> str:
    """What a docstring says, else which key it follows, else our table."""
    said = facts[name].meaning if name in facts else ""
    if not said and isinstance(value, str) and value.startswith("@"):
        return f"follows {value[1:]}"
    return said or MEANINGS.get(name, "")


class Argument(NamedTuple):
    """One parameter of a component: its default (ABSENT without one) and what its docstring says."""

    default: Any
    meaning: str


@cache
def argument_facts(target: str) -> dict[str, Argument]:
    """Parameters of one of our frozen components, from its source; empty for anything else."""
    homes: dict[str, str] = importlib.import_module(COMPONENTS).HOMES  # a table of texts; it imports nothing
    module, _, name = target.rpartition(".")
    if module != COMPONENTS or name not in homes:
        return {}
    spec = importlib.util.find_spec(homes[name])
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8")) if spec and spec.origin else ast.Module([], [])
    kinds = (ast.ClassDef, ast.FunctionDef)
    found = next((node for node in tree.body if isinstance(node, kinds) and node.name == name), None)
    if found is None:
        return {}
    maker: Any = found
    if isinstance(found, ast.ClassDef):
        maker = next(
            (part for part in found.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"), None
        )
        if maker is None:
            return _of_fields(found)
    meanings = _meanings(ast.get_docstring(found) or "") | _meanings(ast.get_docstring(maker) or "")
    arguments = [*maker.args.posonlyargs, *maker.args.args]
    defaults = [ABSENT] * (len(arguments) - len(maker.args.defaults)) + [_plain(one) for one in maker.args.defaults]
    pairs = [*zip(arguments, defaults, strict=True)]
    pairs += [
        (argument, ABSENT if default is None else _plain(default))
        for argument, default in zip(maker.args.kwonlyargs, maker.args.kw_defaults, strict=True)
    ]
    return {a.arg: Argument(default, meanings.get(a.arg, "")) for a, default in pairs if a.arg not in ("self", "cls")}


def _of_fields(made: ast.ClassDef) -> dict[str, Argument]:
    """Fields of a dataclass."""
    meanings = _meanings(ast.get_docstring(made) or "")
    fields = [part for part in made.body if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)]
    return {
        field.target.id: Argument(
            ABSENT if field.value is None else _plain(field.value), meanings.get(field.target.id, "")
        )
        for field in fields
        if isinstance(field.target, ast.Name)
    }


def _plain(node: ast.expr) -> object:
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return ABSENT
    return list(value) if isinstance(value, tuple) else value


def _meanings(text: str) -> dict[str, str]:
    """Name -> text of the section `Args:` of a docstring; `a, b: text` belongs to both."""
    found: dict[str, str] = {}
    section = re.search(r"^ *Args:\n(.*?)(?:\n\s*\n|\Z)", text, re.DOTALL | re.MULTILINE)
    names: list[str] = []
    for line in section[1].splitlines() if section else []:
        begun = re.match(r"\s*([a-z_][\w, *]*): (.*)", line)
        if begun:
            names = [name.strip(" *") for name in begun[1].split(",")]
            found.update(dict.fromkeys(names, begun[2]))
        elif names:
            found.update({name: f"{found[name]} {line.strip()}" for name in names})
    return found


def shown(value: object) -> str:
    """A value as it is written on a command line."""
    return "" if value is ABSENT else json.dumps(value)
