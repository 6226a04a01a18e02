"""The front doors of a stranger's bundle, each with sound bytes to start from and a way to open them."""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch._subclasses.schema_check_mode  # torch loads it with the first tensor without values
import yaml
from safetensors.torch import save_file

from medseg.bundle.configs.metadata import read_metadata
from medseg.bundle.load import Bundle, load_bundle
from medseg.bundle.low_resolution import settings_of
from medseg.bundle.opening.archive import unpacked
from medseg.bundle.opening.parser import open_config
from medseg.bundle.weights import read_state_dict
from medseg.layout import Layout
from medseg.planning.plan import Plan
from tests.bundle.samples import make_bundle
from tests.reliability.mutations import mutate

# What a structured mutation puts in place of a value.
ODD: list[Any] = [
    None, True, False, 0, 1, -1, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, "", "a", "0", "-1", "é", "\n", "\u202e", "../../x",
    "/etc/passwd", [], {}, [[]], [None], [0, 0, 0], [-1, 2, 3], ["a"], {"0": "a"}, {"a": 1},
    {"_target_": "os.system", "command": "true"},
    {"_target_": "builtins.open", "file": "canary", "mode": "w"}, {"_target_": 5}, {"_target_": "torch.load", "f": "x"}, "@", "@nope",
    "@roi_size", "@network_def", "%x.json", "$", "$1", "$[1, 2, 3]", "$1/0", "$__import__('os').system('true')",
    "$open('canary', 'w')", "$9**9**9", "$(lambda: 1)()", "$@roi_size.__class__", "$import os", "x" * 5000, [[[[[[]]]]]],
]  # fmt: skip


@dataclass(frozen=True)
class Door:
    """One entrance.

    Attributes:
        seeds: sound bytes.
        file: where mutated bytes are put.
        open: reads them as a command would.
        parse, render: bytes to values and back, where the format has values that can be exchanged one by one.
    """

    seeds: tuple[bytes, ...]
    file: Path
    open: Callable[[], object]
    parse: Callable[[bytes], Any] | None = None
    render: Callable[[Any], bytes] | None = None

    def mutated(self, source: random.Random) -> bytes:
        """A seed with a few values exchanged, or a few bytes, or both."""
        content = source.choice(self.seeds)
        if self.parse and self.render and source.random() < 0.6:
            value = self.parse(content)
            for _ in range(source.randint(1, 3)):
                value = exchanged(value, source)
            content = self.render(value)
            if source.random() < 0.8:
                return content
        return mutate(content, source)


def exchanged(value: Any, source: random.Random) -> Any:
    """The value with one node, at any depth, exchanged, removed or moved."""
    if isinstance(value, (dict, list)) and value and source.random() < 0.85:
        key = source.choice(list(value) if isinstance(value, dict) else range(len(value)))
        move = source.random()
        if move < 0.1:
            del value[key]
        elif move < 0.15 and isinstance(value, dict):
            value[str(source.choice(["a", "", "-1", "999999", "\n", "_target_", "x::y", "+roi_size"]))] = value.pop(key)
        else:
            value[key] = exchanged(value[key], source)
        return value
    return json.loads(json.dumps(source.choice(ODD)))


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _zip(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("configs/metadata.json", "plan.json", "LICENSE"):
            archive.write(folder / name, f"tiny/{name}")
    return buffer.getvalue()


def doors(place: Path) -> dict[str, Door]:
    """Every entrance, with a bundle of its own below `place` for those that need one."""
    sound = make_bundle(place / "sound")
    texts = {name: getattr(sound, name).read_bytes() for name in ("inference", "metadata", "plan", "train")}

    def beside(kind: str, *kept: str) -> Layout:
        layout = Layout(place / kind)
        layout.configs.mkdir(parents=True)
        layout.models.mkdir()
        for name in kept:
            getattr(layout, name).write_bytes(texts[name])
        return layout

    def configuration(layout: Layout) -> None:
        bundle = load_bundle(layout.folder)
        _ = bundle.roi_size, bundle.inference_settings, bundle.weight_files, bundle.preprocessing
        if "low_resolution" in bundle.config:
            settings_of(bundle)

    def training(layout: Layout) -> None:
        opened = open_config(layout.train, bundle_root=layout.folder)
        for key in ("preprocessing_def", "train::inferer", "train::dataset"):
            if key in opened:
                opened.get(key)

    def words(layout: Layout) -> None:
        bundle = Bundle(layout.folder, read_metadata(layout.folder), None)  # type: ignore[arg-type]
        _ = bundle.labels, bundle.channels, bundle.version, bundle.name

    def archive(file: Path) -> None:
        with unpacked(file, place / "unpacked") as (folder, _):
            assert folder.is_dir()

    config, other, meta = beside("config", "metadata", "plan"), beside("yaml", "metadata", "plan"), beside("metadata")
    train = beside("train", "metadata", "plan")
    inference = json.loads(texts["inference"])
    coarse = {key: inference[key] for key in ("network_def", "preprocessing_def", "roi_size")}
    coarse |= {"checkpoint": "models/low_resolution.pt", "margin_mm": 20.0, "find": [1]}
    both = _json({**inference, "low_resolution": coarse, "models": ["models/fold_0/model.pt"]})
    yaml_file, pt, safe = other.inference.with_suffix(".yaml"), place / "x.pt", place / "x.safetensors"
    tensors = {"a.weight": torch.arange(24.0).reshape(2, 3, 4), "a.bias": torch.zeros(2), "b": torch.tensor(3)}
    torch.save(tensors, pt)
    torch.save({"state_dict": tensors}, place / "nested.pt")
    torch.save(tensors, place / "old.pt", _use_new_zipfile_serialization=False)
    save_file(tensors, safe)
    pickled = tuple((place / name).read_bytes() for name in ("x.pt", "nested.pt", "old.pt"))
    plain = yaml.safe_dump(json.loads(texts["inference"])).encode()
    return {
        "config": Door((texts["inference"], both), config.inference, lambda: configuration(config), json.loads, _json),
        "train": Door((texts["train"],), train.train, lambda: training(train), json.loads, _json),
        "yaml": Door((plain,), yaml_file, lambda: configuration(other)),
        "metadata": Door((texts["metadata"],), meta.metadata, lambda: words(meta), json.loads, _json),
        "plan": Door((texts["plan"],), place / "plan.json", lambda: Plan.read(place / "plan.json"), json.loads, _json),
        "weights": Door(pickled, pt, lambda: read_state_dict(pt)),
        "safetensors": Door((safe.read_bytes(),), safe, lambda: read_state_dict(safe)),
        "zip": Door((_zip(sound.folder),), place / "x.zip", lambda: archive(place / "x.zip")),
    }
