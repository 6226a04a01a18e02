"""Attacks of a stranger's configuration through every verb that reads one, with Python's audit events heard.

Each verb refuses with one line that names the file, or does its work without doing what was asked; nothing is written
outside of the bundle and its outputs, fetched, started, imported or unpickled on the way.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from medseg.bundle.checks.verify import verify_bundle
from medseg.bundle.load import load_bundle
from medseg.cli.label_table import read_label_table
from medseg.commands.cv import cross_validate
from medseg.commands.export import export_bundle
from medseg.commands.fit import fit_bundle
from medseg.commands.pack import pack_bundle
from medseg.commands.plan_apply import apply_plan
from medseg.commands.predict import predict_bundle
from medseg.errors import MedsegError
from medseg.layout import Layout
from tests.bundle.opening.attacks import ATTACKS, plant
from tests.reliability.audit import Watch

pytestmark = pytest.mark.requirement("R13")

Bundled = tuple[Layout, Path]


@pytest.fixture(scope="module")
def watch(bundle_and_data: Bundled) -> Iterator[Watch]:
    logging.disable(logging.WARNING)
    for _ in verify_bundle(bundle_and_data[0].folder):  # every import is done before the watch begins
        pass
    yield Watch(frozenset({"ignite", "nibabel", "pytorch_lightning", "scipy", "skimage", "fsspec", "PIL"}))
    logging.disable(logging.NOTSET)


def use(layout: Layout, data: Path) -> None:
    bundle = load_bundle(layout.folder)
    _ = bundle.roi_size, bundle.label_settings, bundle.preprocessing
    bundle.networks()


VERBS: dict[str, Callable[[Layout, Path], object]] = {
    "load": use,
    "verify": lambda layout, data: [fault for check in verify_bundle(layout.folder) for fault in check.faults],
    "fit": lambda layout, data: fit_bundle(layout.folder, device="cpu"),
    "cv": lambda layout, data: cross_validate([layout.folder], device="cpu"),
    "export": lambda layout, data: export_bundle(layout.folder, "torchscript", output=layout.folder / "x.ts"),
    "predict": lambda layout, data: predict_bundle(layout.folder, [data / "images"], layout.folder / "out"),
}
# these read a bundle's files and build nothing of them: they may end well
READERS: dict[str, Callable[[Layout], object]] = {
    "evaluate --labels": lambda layout: read_label_table(str(layout.folder)),
    "plan --apply": lambda layout: apply_plan(layout.folder),
    "bundle pack": lambda layout: pack_bundle(layout.folder, layout.folder / "out" / "packed.zip"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused_by_every_verb(
    name: str, bundle_and_data: Bundled, watch: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDSEG_FOREIGN", "inside")  # the child process is tests/commands/test_contained.py
    (tmp_path / "planted_module.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    layout = Layout(Path(shutil.copytree(bundle_and_data[0].folder, tmp_path / "home" / "tiny_mr_unet")))
    monkeypatch.setattr(tempfile, "tempdir", str(layout.folder))  # our own temporary files
    canary = tmp_path / "elsewhere" / "canary"
    canary.parent.mkdir()
    plant(layout, ATTACKS[name](canary), canary)
    outcomes: dict[str, Any] = {}
    for verb, run in VERBS.items():
        with watch.watching(layout.folder) as broken:
            try:
                outcomes[verb] = run(layout, bundle_and_data[1])
            except MedsegError as error:
                outcomes[verb] = error
        assert broken == [], verb
    for verb, read in READERS.items():
        with watch.watching(layout.folder.parent) as broken:  # the folder itself may be made where it is not
            try:
                read(layout)
            except MedsegError as error:
                assert "\n" not in str(error), verb  # noqa: PT017  (it need not be raised)
        assert broken == [], verb
    assert not canary.exists()
    assert not (tmp_path / "canary").exists()
    assert outcomes["verify"], "nothing was found"
    for verb in ("load", "fit", "cv", "export", "predict"):
        message = str(outcomes[verb])
        assert isinstance(outcomes[verb], MedsegError), verb
        assert "\n" not in message
        assert str(layout.folder) in message


def test_what_medseg_stands_in_for_is_opened_and_not_done(
    bundle_and_data: Bundled, watch: Watch, tmp_path: Path
) -> None:
    """SaveClassificationd deletes at construction; a saver, a loader and a checkpoint of the bundle's are never built."""
    precious = tmp_path / "results.csv"
    precious.write_text("precious")
    layout = Layout(Path(shutil.copytree(bundle_and_data[0].folder, tmp_path / "tiny_mr_unet")))
    content = json.loads(layout.inference.read_text())
    where = {"output_dir": str(tmp_path), "filename": precious.name}
    content["saver"] = {"_target_": "SaveClassificationd", "keys": "p", **where}
    content["writer"] = {
        "_target_": "SaveImaged",
        "keys": "p",
        "output_dir": str(tmp_path / "new"),
        "writer": "os.system",
    }
    content["loader"] = {"_target_": "CheckpointLoader", "load_path": "/etc/passwd", "load_dict": {}}
    layout.inference.write_text(json.dumps(content))
    with watch.watching(layout.folder) as broken:
        bundle = load_bundle(layout.folder)
        for key in ("saver", "writer"):
            assert bundle.value(key)({"p": 1}) == {"p": 1}
        with pytest.raises(MedsegError, match="not done by medseg itself"):
            bundle.value("loader")
        use(layout, tmp_path)
    assert broken == []
    assert precious.read_text() == "precious"
    assert not (tmp_path / "new").exists()


def test_yaml_is_judged_by_the_same_reader(bundle_and_data: Bundled, watch: Watch, tmp_path: Path) -> None:
    layout = Layout(Path(shutil.copytree(bundle_and_data[0].folder, tmp_path / "tiny_mr_unet")))
    content = json.loads(layout.inference.read_text())
    layout.inference.unlink()
    canary = tmp_path / "canary"
    for name in ("eval", "LoadImage as a function", "open", "_disabled_", "macro of a file", "metadata"):
        values = ATTACKS[name](canary)
        layout.inference.with_suffix(".yaml").write_text(json.dumps({**content, **values}))
        with watch.watching(layout.folder) as broken, pytest.raises(MedsegError, match="yaml"):
            use(layout, tmp_path)
        assert broken == []
    assert not canary.exists()
