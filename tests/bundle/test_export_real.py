"""Exported shipped bundles equal eager on a real hippocampus volume; .ts and .pt2 open where medseg is not installed."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from medseg.bundle.load import load_bundle
from medseg.commands import export
from medseg.commands.export import export_bundle
from medseg.io import read_image
from medseg.layout import Layout
from tests.bundle.shipped import shipped
from tests.bundle.test_export import LOAD_WITHOUT_MEDSEG

HIPPOCAMPUS = [layout for layout in shipped() if layout.folder.name.startswith("hippocampus")]
each = pytest.mark.parametrize("layout", HIPPOCAMPUS, ids=lambda layout: layout.folder.name)


@pytest.fixture
def volume(real_data: Path) -> Path:
    return sorted((real_data / "hippocampus" / "imagesTr").glob("*.nii.gz"))[0]


def first_window(layout: Layout, path: Path) -> torch.Tensor:
    """(1, C, *roi_size) of the real volume on the network's grid, padded where it is smaller."""
    opened = load_bundle(layout.folder)
    scan = read_image(path)
    prepared = torch.from_numpy(opened.preprocessing.apply(scan.array, scan.affine).image)[None]
    window = torch.zeros(1, prepared.shape[1], *opened.roi_size)
    kept = [min(a, b) for a, b in zip(prepared.shape[2:], opened.roi_size, strict=True)]
    region = (slice(None), slice(None), *(slice(extent) for extent in kept))
    window[region] = prepared[region]
    return window


@pytest.mark.data
@pytest.mark.slow
@each
@pytest.mark.parametrize("to", sorted(export.WRITERS))
def test_export_equals_eager_on_a_real_volume(to: str, layout: Layout, volume: Path, tmp_path: Path) -> None:
    if to == "openvino" and importlib.util.find_spec("openvino") is None:
        pytest.skip("the package openvino is not installed")
    target = tmp_path / f"model{export.SUFFIXES[to]}"
    result = export_bundle(layout.folder, to, output=target, image=volume)
    print(f"{layout.folder.name} {to}: {result.largest_difference:.1e} in logits, {result.equal_labels:.6f} of labels")
    assert result.checked_on == volume.name
    assert result.largest_difference <= 1e-4
    assert result.equal_labels >= 0.999
    if to not in ("torchscript", "pt2"):
        return
    image = first_window(layout, volume)
    torch.save(image, tmp_path / "image.pt")
    words = [sys.executable, "-c", LOAD_WITHOUT_MEDSEG, str(target), str(tmp_path / "image.pt"), str(tmp_path / "o.pt")]
    subprocess.run(words, check=True, cwd=tmp_path, timeout=300)
    with torch.no_grad():
        expected = load_bundle(layout.folder).network()(image)
    found = torch.load(tmp_path / "o.pt")
    scale = max(1.0, float(expected.abs().max()))
    assert float((found - expected).abs().max()) <= 1e-4 * scale
    assert float((found.argmax(1) == expected.argmax(1)).float().mean()) >= 0.999
