"""What `--trust` runs is what was shown: every file hashed, a private copy, no links, no bytecode, asked again after a change."""

from __future__ import annotations

import importlib.util
import json
import os
import py_compile
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from medseg.bundle.load import load_bundle
from medseg.bundle.opening.inventory import take_inventory, told
from medseg.bundle.opening.listing import Shown
from medseg.errors import MedsegError, UntrustedBundleError
from medseg.layout import Layout

SIZES = "def roi():\n    return [{0}, {0}, {0}]\n"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """A bundle whose window is computed by its own scripts/sizes.py; nothing else of it is looked at here."""
    monkeypatch.setenv("MEDSEG_TRUSTED", str(tmp_path / "trusted.json"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    layout = Layout(tmp_path / "stranger")
    layout.configs.mkdir(parents=True)
    layout.metadata.write_text(json.dumps({"name": "stranger"}))
    name_window(layout, "scripts.sizes.roi")
    write_code(layout, "scripts/sizes.py", 32)
    return layout


def name_window(layout: Layout, target: str) -> None:
    layout.inference.write_text(json.dumps({"roi_size": {"_target_": target}}))


def write_code(layout: Layout, name: str, size: int) -> Path:
    path = layout.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(SIZES.format(size))
    return path


def window(layout: Layout, trust: bool | Callable[[Shown], None] = False) -> int:
    return load_bundle(layout.folder, trust=trust).roi_size[0]


@pytest.mark.parametrize(
    "name", ["scripts/eval/sizes.py", "scripts/runs/sizes.py", "Runs/sizes.py", "scripts/__pycache__/sizes.py"]
)
def test_code_in_any_folder_is_hashed(own: Layout, name: str) -> None:
    write_code(own, name, 32)
    name_window(own, name.removesuffix(".py").replace("/", ".") + ".roi")
    assert window(own, trust=True) == 32
    write_code(own, name, 64)
    with pytest.raises(UntrustedBundleError, match=rf"{name} changed since"):
        window(own)


def test_result_folders_change_freely_and_hold_no_code(own: Layout) -> None:
    for name in ("runs", "eval"):
        write_code(own, f"{name}/sizes.py", 64)
    assert window(own, trust=True) == 32
    write_code(own, "runs/other.py", 64)
    assert window(own) == 32
    name_window(own, "eval.sizes.roi")
    with pytest.raises(MedsegError, match="roi_size cannot be built"):
        window(own, trust=True)


@pytest.mark.parametrize("invalidation", list(py_compile.PycInvalidationMode))
def test_bytecode_is_never_run(own: Layout, tmp_path: Path, invalidation: py_compile.PycInvalidationMode) -> None:
    evil = tmp_path / "evil.py"
    evil.write_text(SIZES.format(64))
    source = own.folder / "scripts" / "sizes.py"
    cached = Path(importlib.util.cache_from_source(str(source)))
    cached.parent.mkdir()
    py_compile.compile(str(evil), cfile=str(cached), invalidation_mode=invalidation)
    assert window(own, trust=True) == 32
    assert sys.dont_write_bytecode
    source.unlink()
    cached.rename(source.with_suffix(".pyc"))  # a module without a source
    with pytest.raises(MedsegError, match="roi_size cannot be built"):
        window(own, trust=True)


def test_bytecode_added_later_is_named(own: Layout) -> None:
    window(own, trust=True)
    (own.folder / "scripts" / "__pycache__").mkdir()
    (own.folder / "scripts" / "__pycache__" / "sizes.pyc").write_bytes(b"x")
    with pytest.raises(UntrustedBundleError, match=r"scripts/__pycache__/sizes\.pyc changed since"):
        window(own)


@pytest.mark.parametrize("place", ["scripts/more", "scripts/sizes.py", "runs", "models"])
def test_links_are_refused_by_name(own: Layout, tmp_path: Path, place: str) -> None:
    target = tmp_path / "elsewhere"
    target.mkdir()
    path = own.folder / place
    path.unlink(missing_ok=True)
    path.symlink_to(target)
    opened = load_bundle(own.folder, trust=True)
    with pytest.raises(UntrustedBundleError, match=rf"{place} is a link"):
        _ = opened.roi_size
    with pytest.raises(UntrustedBundleError, match=r"scripts\.sizes\.roi"):  # and nothing was recorded
        window(own)


def test_a_pipe_is_refused(own: Layout) -> None:
    os.mkfifo(own.folder / "scripts" / "pipe")
    with pytest.raises(UntrustedBundleError, match="scripts/pipe is no plain file"):
        window(own, trust=True)


def test_what_runs_is_what_was_shown(own: Layout) -> None:
    """A file that changes while the person reads the listing, or after opening: the shown bytes run."""

    def consent(_shown: Shown) -> None:
        write_code(own, "scripts/sizes.py", 64)
        write_code(own, "scripts/added.py", 64)

    opened = load_bundle(own.folder, trust=consent)
    assert opened.roi_size == (32, 32, 32)
    with pytest.raises(UntrustedBundleError, match=r"scripts/added\.py and 1 more changed since"):
        window(own)


def test_a_change_through_a_hard_link_is_seen(own: Layout, tmp_path: Path) -> None:
    os.link(own.folder / "scripts" / "sizes.py", tmp_path / "other_name.py")
    window(own, trust=True)
    (tmp_path / "other_name.py").write_text(SIZES.format(64))
    with pytest.raises(UntrustedBundleError, match=r"scripts/sizes\.py changed since"):
        window(own)


def test_the_real_folder_is_closed_to_imports(own: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """MONAI's workflow, a working directory or the bundle itself may put the folder, or a zip in it, on sys.path."""
    monkeypatch.syspath_prepend(str(own.folder))
    monkeypatch.chdir(own.folder)
    opened = load_bundle(own.folder, trust=True)
    write_code(own, "later/sizes.py", 64)
    for name in ("later.sizes", "scripts.missing"):
        opened.config.build("roi_size")
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(name)


def test_a_module_imported_from_the_folder_before_is_dropped(own: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a notebook whose sys.path holds the bundle."""
    name_window(own, "seen_before.sizes.roi")
    monkeypatch.syspath_prepend(str(own.folder))
    write_code(own, "seen_before/sizes.py", 64)
    assert importlib.import_module("seen_before.sizes").roi() == [64, 64, 64]
    write_code(own, "seen_before/sizes.py", 32)
    assert window(own, trust=True) == 32


def test_a_zip_in_the_bundle_holds_no_modules(own: Layout) -> None:
    with zipfile.ZipFile(own.folder / "scripts.zip", "w") as archive:
        archive.writestr("zipped.py", SIZES.format(64))
    name_window(own, "zipped.roi")
    (own.folder / "scripts" / "sizes.py").write_text(
        "import sys\nfrom pathlib import Path\nsys.path.insert(0, str(Path(__file__).parents[1] / 'scripts.zip'))\n"
    )
    opened = load_bundle(own.folder, trust=True)
    opened.config.raw["first"] = {"_target_": "scripts.sizes.sys.gettrace"}
    opened.config.get("first")
    assert sys.path[0].endswith("scripts.zip")
    with pytest.raises(MedsegError, match="roi_size cannot be built"):
        _ = opened.roi_size


def test_modules_of_two_bundles_do_not_mix(own: Layout, tmp_path: Path) -> None:
    first = load_bundle(own.folder, trust=True)
    assert first.roi_size == (32, 32, 32)
    write_code(own, "scripts/sizes.py", 64)
    assert window(own, trust=True) == 64
    assert first.config.build("roi_size") == [32, 32, 32]


def test_the_standard_library_is_not_shadowed(own: Layout) -> None:
    write_code(own, "json.py", 64)
    write_code(own, "sitecustomize.py", 64)
    assert window(own, trust=True) == 32
    assert "trusted" not in str(importlib.import_module("json").__file__)


def test_a_macro_reads_only_what_was_shown(own: Layout, tmp_path: Path) -> None:
    extra = own.configs / "extra.json"
    extra.write_text(json.dumps({"size": [32, 32, 32]}))
    (tmp_path / "outside.json").write_text(json.dumps({"size": [64, 64, 64]}))
    own.inference.write_text(json.dumps({"roi_size": "%configs/extra.json::size"}))
    opened = load_bundle(own.folder, trust=True)
    extra.write_text(json.dumps({"size": [64, 64, 64]}))
    assert opened.roi_size == (32, 32, 32)
    own.inference.write_text(json.dumps({"roi_size": f"%{tmp_path}/outside.json::size"}))
    with pytest.raises(UntrustedBundleError, match="not among those that were shown"):
        window(own, trust=True)
    own.inference.write_text(json.dumps({"roi_size": "%../outside.json::size"}))
    with pytest.raises(UntrustedBundleError, match="not among those that were shown"):
        window(own, trust=True)


def test_names_are_recorded_and_shown_safely(own: Layout) -> None:
    (own.folder / "evil\x1b[2K\u202e\n.txt").write_text("x")
    (own.folder / os.fsdecode(b"latin\xe9.txt")).write_text("x")
    names = take_inventory(own.folder).hashes
    assert {r"evil\x1b[2K\u202e\n.txt", r"latin\udce9.txt"} <= set(names)
    assert told("a\\n") != told("a\n")
    assert window(own, trust=True) == window(own) == 32
