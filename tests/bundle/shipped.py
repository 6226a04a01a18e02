"""The bundles that the project ships, for tests that hold for every one of them."""

from __future__ import annotations

import pytest

from medseg.bundle.catalogue import packaged_folder
from medseg.layout import Layout, is_bundle


def shipped() -> list[Layout]:
    return [Layout(folder) for folder in sorted(packaged_folder("bundles").iterdir()) if is_bundle(folder)]


each_shipped = pytest.mark.parametrize("layout", shipped(), ids=lambda layout: layout.folder.name)
