"""Broken files of a bundle: one line that names the file, never another exception, never a hang."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from medseg.bundle.load import load_bundle
from medseg.bundle.weights import load_into, read_state_dict
from medseg.errors import BundleError, MedsegError
from medseg.layout import Layout

pytestmark = pytest.mark.requirement("R13")

Plant = Callable[[Layout], None]
DEEP, LONG = "[" * 100_000 + "]" * 100_000, "9" * 5000


def tail(name: str, text: str) -> Plant:
    def plant(layout: Layout) -> None:
        path = getattr(layout, name)
        path.write_text(path.read_text().rstrip()[:-1] + f', "z": {text}}}')

    return plant


def changed(name: str, **values: Any) -> Plant:
    def plant(layout: Layout) -> None:
        path = getattr(layout, name)
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return plant


def put(name: str, content: bytes) -> Plant:
    return lambda layout: getattr(layout, name).write_bytes(content) and None


def yaml(text: str) -> Plant:
    def plant(layout: Layout) -> None:
        layout.inference.unlink()
        layout.inference.with_suffix(".yaml").write_text(text)

    return plant


def replaced(name: str, make: Callable[[Path], Any]) -> Plant:
    def plant(layout: Layout) -> None:
        path = getattr(layout, name)
        path.unlink()
        make(path)

    return plant


def state(change: Callable[[torch.Tensor], Any]) -> Plant:
    def plant(layout: Layout) -> None:
        weights = torch.load(layout.weights, weights_only=True)
        torch.save({name: change(value) for name, value in weights.items()}, layout.weights)

    return plant


def saved(content: Any) -> Plant:
    return lambda layout: torch.save(content, layout.weights)


def spoiled(value: torch.Tensor) -> torch.Tensor:
    return value * float("nan") if value.is_floating_point() else value


def formats(count: int) -> Plant:
    def plant(layout: Layout) -> None:
        metadata = json.loads(layout.metadata.read_text())
        metadata["network_data_format"]["outputs"]["pred"].update(num_channels=count, channel_def={})
        layout.metadata.write_text(json.dumps(metadata))

    return plant


BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{y}: &{y} [{','.join([f'*{x}'] * 9)}]\n" for x, y in zip("abcdefghi", "bcdefghij", strict=True)
)
WINDOW = "roi_size: [32,32,32]\n"
TRIES: dict[str, Plant] = {
    **{f"{name} nested": tail(name, DEEP) for name in ("inference", "metadata", "plan")},
    **{f"{name} with a long number": tail(name, LONG) for name in ("inference", "metadata", "plan")},
    **{f"{name} with NaN": tail(name, "NaN") for name in ("inference", "metadata", "plan")},
    **{f"{name} empty": put(name, b"") for name in ("inference", "metadata", "plan", "weights")},
    **{f"{name} of zeros": put(name, b"\0" * 999) for name in ("inference", "metadata", "plan", "weights")},
    **{f"{name} a list": put(name, b"[1]") for name in ("inference", "metadata", "plan", "weights")},
    **{f"{name} null": put(name, b"null") for name in ("inference", "metadata", "plan")},
    **{f"{name} in UTF-16": put(name, '{"a": 1}'.encode("utf-16")) for name in ("inference", "metadata", "plan")},
    **{f"{name} a folder": replaced(name, Path.mkdir) for name in ("inference", "plan", "weights")},
    **{f"{name} a pipe": replaced(name, os.mkfifo) for name in ("inference", "plan", "weights")},
    **{f"{name} a device": replaced(name, lambda p: p.symlink_to("/dev/zero")) for name in ("inference", "plan", "weights")},
    "nested 900": tail("inference", "[" * 900 + "]" * 900),
    "plan labels": changed("plan", labels={"a": "b"}),
    "plan labels null": changed("plan", labels=None),
    "plan inference list": changed("plan", inference=[]),
    "plan regions": changed("plan", regions=[1]),
    "plan spacing": changed("plan", spacing=[1, -1, 1]),
    "plan window": changed("plan", roi_size=[0, 0, 0]),
    "metadata and plan differ": formats(7),
    "roi_size text": changed("inference", roi_size="abc"),
    "roi_size null": changed("inference", roi_size=None),
    "roi_size infinite": tail("inference", "1e999"),
    "roi_size dangling": changed("inference", roi_size=["@nope", 1, 1]),
    "roi_size circle": changed("inference", q="@q", roi_size=["@q", 1, 1]),
    "roi_size wrong type": changed("inference", roi_size="$[32, 32, 'a' + 1]"),
    "roi_size zero": changed("inference", roi_size=[0, 32, 32]),
    "roi_size of a universe": changed("inference", roi_size=[60000, 60000, 60000]),
    "models a word": changed("inference", models="models/model.pt"),
    "models of numbers": changed("inference", models=[1]),
    "overlap": changed("inference", inferer={"roi_size": [32, 32, 32], "overlap": "much"}),
    "network a number": changed("inference", network_def=5),
    "network null": changed("inference", network_def=None),
    "yaml aliases": yaml(BOMB + WINDOW),
    "yaml circle": yaml("a: &a [*a]\n" + WINDOW),
    "weights a text": put("weights", b"root:x:0:0:\n"),
    "weights a broken zip": put("weights", b"PK\x03\x04" + b"\0" * 100),
    "weights a list of tensors": saved([torch.zeros(2)]),
    "weights a tensor": saved(torch.zeros(2)),
    "weights without tensors": saved({"a": 1}),
    "weights empty table": saved({}),
    "weights meta device": state(lambda value: value.to("meta")),
    "weights sparse": state(lambda value: value.to_sparse() if value.ndim > 1 else value),
    "weights complex": state(lambda value: value.to(torch.complex64) if value.is_floating_point() else value),
    "weights whole": state(lambda value: value.to(torch.int32)),
    "weights NaN": state(spoiled),
    "weights infinite": state(lambda value: value + float("inf") if value.is_floating_point() else value),
    "weights quantised": state(lambda value: torch.quantize_per_tensor(value.float(), 0.1, 0, torch.qint8)),
    "weights of a larger shape than their file": state(lambda value: value.flatten()[:1].expand(1 << 40)),
    "weights of another shape": state(lambda value: value[None]),
    "weights in eight bits": state(lambda value: value.to(torch.float8_e4m3fn)),
}  # fmt: skip


def use(folder: Path) -> None:
    bundle = load_bundle(folder)
    _ = bundle.roi_size, bundle.labels, bundle.label_values, bundle.channels, bundle.inference_settings
    bundle.networks()


@pytest.mark.parametrize("name", TRIES)
def test_a_broken_bundle_is_one_line_that_names_its_file(name: str, bundle: Layout) -> None:
    TRIES[name](bundle)
    begin = time.process_time()
    with pytest.raises(MedsegError) as caught:
        use(bundle.folder)
    message = str(caught.value)
    assert time.process_time() - begin < 5
    assert str(bundle.folder) in message
    assert "\n" not in message
    assert len(message) < 3 * len(str(bundle.folder)) + 600


@pytest.mark.parametrize("make", [lambda p: p.write_bytes(b"x" * 99), lambda p: p.write_bytes(b""), Path.mkdir])
def test_broken_safetensors_are_one_line(make: Callable[[Path], Any], bundle: Layout) -> None:
    make(bundle.safetensors)
    with pytest.raises(BundleError, match=r"models/model\.safetensors|network_def"):
        read_state_dict(bundle.safetensors)


def test_weights_cut_or_flipped_anywhere_are_one_line(bundle: Layout, tmp_path: Path) -> None:
    torch.save({"a": torch.arange(6.0), "b": torch.zeros(2, 3)}, tmp_path / "sound.pt")
    content = (tmp_path / "sound.pt").read_bytes()
    for place in range(0, len(content), 7):
        for broken in (content[:place], content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]):
            (tmp_path / "x.pt").write_bytes(broken)
            with contextlib.suppress(MedsegError):  # a flip may fall on a byte that nobody reads
                assert all(isinstance(value, torch.Tensor) for value in read_state_dict(tmp_path / "x.pt").values())


def test_sound_weights_of_another_precision_are_taken(tmp_path: Path) -> None:
    network = torch.nn.Conv3d(1, 2, 3)
    half = {name: value.half() for name, value in network.state_dict().items()}
    load_into(network, half, tmp_path / "x.pt")
    assert network.weight.dtype == torch.float32


def test_a_sound_bundle_opens_beside_all_of_this(bundle: Layout, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle.folder, tmp_path / "copy"))
    use(copy)
