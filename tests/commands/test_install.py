"""Installed bundles: readable for those whom the umask allows, never in the way of a shipped one in silence."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from medseg.bundle import catalogue
from medseg.bundle.catalogue import find_bundle, known_bundles
from medseg.commands.install import install_bundle
from medseg.commands.pack import pack_bundle
from medseg.errors import BundleError
from medseg.io.whole_folders import aside
from medseg.layout import Layout
from tests.bundle.samples import make_bundle


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    monkeypatch.setenv("MEDSEG_BUNDLES", str(tmp_path / "installed"))
    catalogue._tell_hidden.cache_clear()
    return make_bundle(tmp_path / "tiny_mr_unet", tmp_path / "data")


@pytest.fixture
def umask() -> Iterator[Callable[[int], object]]:
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def test_an_installed_bundle_is_for_all_whom_the_umask_allows(
    bundle: Layout, tmp_path: Path, umask: Callable[[int], object]
) -> None:
    packed = pack_bundle(bundle.folder, tmp_path / "x.zip").path
    umask(0o077)
    private = make_bundle(tmp_path / "private" / "tiny_mr_unet", tmp_path / "data2").folder
    umask(0o022)
    found = [
        install_bundle(str(packed)), find_bundle(packed), install_bundle(str(private), replace=True),
    ]  # fmt: skip
    for folder in found:
        for path in (folder, *folder.rglob("*")):
            assert stat.S_IMODE(path.stat().st_mode) == (0o755 if path.is_dir() else 0o644), path
    assert {path.name for path in (tmp_path / "installed").iterdir()} == {"tiny_mr_unet", ".packed"}


def test_what_a_killed_replacement_left_keeps_its_name(bundle: Layout, tmp_path: Path) -> None:
    folder = install_bundle(str(bundle.folder))
    folder.rename(aside(folder))
    assert find_bundle("tiny_mr_unet") == aside(folder)
    with pytest.raises(BundleError, match="installed already"):
        install_bundle(str(bundle.folder))
    assert find_bundle("tiny_mr_unet") == folder


@pytest.fixture
def shipped(bundle: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of shipped bundles that holds one of the same name."""
    folder = make_bundle(tmp_path / "shipped" / "tiny_mr_unet", tmp_path / "data3").folder
    monkeypatch.setattr(catalogue, "packaged_folder", lambda name: tmp_path / "shipped")
    return folder


@pytest.mark.parametrize("packed", [True, False])
def test_a_shipped_name_is_not_taken_unasked(bundle: Layout, shipped: Path, tmp_path: Path, packed: bool) -> None:
    source = pack_bundle(bundle.folder, tmp_path / "x.zip").path if packed else bundle.folder
    with pytest.raises(BundleError, match="the name of a bundle that comes with medseg"):
        install_bundle(str(source))
    assert find_bundle("tiny_mr_unet") == shipped


def test_one_that_hides_a_shipped_bundle_says_so_at_each_use(
    bundle: Layout, shipped: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        folder = install_bundle(str(bundle.folder), replace=True)
    assert "no longer for the bundle of that name that comes with medseg" in caplog.text
    caplog.clear()
    assert find_bundle("tiny_mr_unet") == known_bundles()["tiny_mr_unet"] == folder
    assert caplog.messages == [
        f"tiny_mr_unet: {folder} is used, not the bundle of that name that comes with medseg ({shipped})"
    ]
    caplog.clear()
    find_bundle(folder)
    find_bundle(shipped)
    assert caplog.messages == []


def test_a_folder_here_that_hides_a_shipped_bundle_says_so(
    bundle: Layout, shipped: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(bundle.folder.parent)
    assert find_bundle("tiny_mr_unet").resolve() == bundle.folder.resolve()
    assert "not the bundle of that name that comes with medseg" in caplog.text
    caplog.clear()
    monkeypatch.chdir(shipped.parent)
    catalogue._tell_hidden.cache_clear()
    find_bundle("tiny_mr_unet")
    assert caplog.messages == []
