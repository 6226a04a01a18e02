"""Exported networks equal eager on a volume, and the files open where medseg is not installed."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from medseg.bundle.leak_scan import Scan
from medseg.bundle.load import load_bundle
from medseg.bundle.secrets import Secrets
from medseg.commands import export
from medseg.commands.export import export_bundle
from medseg.errors import BundleError, ConfigError
from medseg.layout import Layout
from tests.bundle.samples import make_bundle

LOAD_WITHOUT_MEDSEG = """
import sys
sys.modules["medseg"] = None  # any import of it fails from here on
sys.modules["medseg_kernels"] = None
import torch
image = torch.load(sys.argv[2])
path = sys.argv[1]
network = torch.jit.load(path) if path.endswith(".ts") else torch.export.load(path).module()
with torch.no_grad():
    torch.save(network(image), sys.argv[3])
"""


def places_in(path: Path, layout: Layout, data: Path) -> str | None:
    """Which folder of this machine, the code's among them, or which case's name a file holds."""
    code = [Path(__file__).parents[2], Path(torch.__file__).parents[1], Path(sys.prefix)]
    folders: dict[str, str | None] = {str(one): None for one in (*code, layout.folder, data, Path.home(), Path.cwd())}
    return Scan(Secrets(folders, {"case1": "", "case0": ""})).find(path.name, path.read_bytes())


@pytest.fixture(scope="module")
def scanning(tmp_path_factory: pytest.TempPathFactory) -> tuple[Layout, Path]:
    """A bundle whose network has one scan, and its cases: exporters take several times as long for one made of scans.

    Those are in test_export_real.py.
    """
    place = tmp_path_factory.mktemp("scanning")
    network = {"preset": "umamba_bot", "spatial_dims": 3, "in_channels": 1, "out_channels": 3}
    return make_bundle(place / "tiny_mr_unet", place / "data", network=network), place / "data"


def exported_as_eager(to: str, scanning: tuple[Layout, Path], folder: Path) -> Path:
    """The file, which gives what the network gives and names no place of this machine."""
    layout, data = scanning
    target = folder / f"model{export.SUFFIXES[to]}"
    result = export_bundle(layout.folder, to, output=target, image=data / "images" / "case1.nii.gz")
    assert result.largest_difference <= 1e-4
    assert result.equal_labels >= 0.999
    assert places_in(target, layout, data) is None
    return target


@pytest.mark.parametrize("to", ["torchscript", pytest.param("pt2", marks=pytest.mark.slow)])
def test_export_equals_eager_and_opens_without_medseg(to: str, scanning: tuple[Layout, Path], tmp_path: Path) -> None:
    target = exported_as_eager(to, scanning, tmp_path)
    image = torch.rand(1, 1, 32, 32, 32)
    torch.save(image, tmp_path / "image.pt")
    words = [sys.executable, "-c", LOAD_WITHOUT_MEDSEG, str(target), str(tmp_path / "image.pt"), str(tmp_path / "o.pt")]
    subprocess.run(words, check=True, cwd=tmp_path, timeout=120)
    with torch.no_grad():
        expected = load_bundle(scanning[0].folder).network()(image)
    torch.testing.assert_close(torch.load(tmp_path / "o.pt"), expected, atol=1e-4, rtol=1e-4)
    if to == "torchscript":
        takes_any_size_and_carries_the_configuration(target)


def takes_any_size_and_carries_the_configuration(path: Path) -> None:
    extra = {"inference.json": "", "metadata.json": ""}
    network = torch.jit.load(str(path), _extra_files=extra)
    assert network(torch.rand(2, 1, 37, 40, 33)).shape == (2, 3, 37, 40, 33)
    assert json.loads(extra["metadata.json"])["name"] == "tiny_mr_unet"
    assert "evaluator" in json.loads(extra["inference.json"])


@pytest.mark.slow
@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_export_to_runtimes_equals_eager(to: str, scanning: tuple[Layout, Path], tmp_path: Path) -> None:
    if to == "openvino" and importlib.util.find_spec("openvino") is None:
        pytest.skip("the package openvino is not installed")
    exported_as_eager(to, scanning, tmp_path)
    expected = {"model.onnx"} if to == "onnx" else {"model.xml", "model.bin"}
    assert {path.name for path in tmp_path.iterdir()} == expected


def test_export_that_differs_is_not_kept(
    bundle_and_data: tuple[Layout, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(network: torch.nn.Module, example: torch.Tensor, path: Path, bundle: object) -> object:
        path.write_bytes(b"x")
        return lambda image: network(image) + image

    monkeypatch.setitem(export.WRITERS, "torchscript", wrong)
    with pytest.raises(BundleError, match="differs from eager"):
        export_bundle(bundle_and_data[0].folder, "torchscript", output=tmp_path / "model.ts")
    assert list(tmp_path.iterdir()) == []


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, bundle: Layout) -> None:
    monkeypatch.setitem(export.PACKAGES, "onnx", ("not_a_package",))
    with pytest.raises(ConfigError, match=r"not_a_package: pip install 'medseg\[export\]'"):
        export_bundle(bundle.folder, "onnx")
