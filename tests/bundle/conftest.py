"""One small bundle with weights for the whole folder; tests that change it take a copy."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from medseg.layout import Layout
from tests.bundle.samples import make_bundle


@pytest.fixture(scope="session")
def bundle_and_data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Layout, Path]:
    """A bundle and the folder of its three cases. Do not change either."""
    place = tmp_path_factory.mktemp("bundle")
    return make_bundle(place / "tiny_mr_unet", place / "data"), place / "data"


@pytest.fixture
def bundle(bundle_and_data: tuple[Layout, Path], tmp_path: Path) -> Layout:
    """A copy of the bundle that a test may break."""
    return Layout(Path(shutil.copytree(bundle_and_data[0].folder, tmp_path / "tiny_mr_unet")))


@pytest.fixture(autouse=True)
def _private_user_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Installed bundles and trust decisions of a test stay in its own folder."""
    monkeypatch.setenv("MEDSEG_BUNDLES", str(tmp_path / "installed"))
    monkeypatch.setenv("MEDSEG_TRUSTED", str(tmp_path / "trusted.json"))
    monkeypatch.setattr(sys, "path", list(sys.path))  # a trusted bundle and MONAI's run() add their folders to it
