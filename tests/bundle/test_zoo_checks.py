"""Every check of the public model zoo's CI, restated, for each bundle that the project ships."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import monai.bundle
import torch

from medseg.bundle.layout import Layout, packaged_folder
from medseg.bundle.load import load_bundle
from medseg.bundle.metadata import place_schema
from medseg.bundle.verify import verify_bundle

LARGEST_WEIGHTS = 12_000_000  # bytes; git keeps every version for ever


def shipped() -> list[Layout]:
    root = packaged_folder("bundles")
    return [Layout(folder) for folder in sorted(root.iterdir()) if (folder / "configs" / "metadata.json").is_file()]


def passes_the_zoo(layout: Layout, place: Path) -> None:
    """(2) files, (3) weights and inference, (4) version, (5) schema, (8) shapes, (9) export, (10) properties."""
    assert layout.license.is_file()
    assert layout.weights.is_file()
    assert layout.inference.is_file()
    metadata = json.loads(layout.metadata.read_text())
    assert metadata["version"] in metadata["changelog"]
    assert re.fullmatch(r"[a-z][a-z0-9_]*", layout.folder.name)
    monai.bundle.verify_metadata(meta_file=str(layout.metadata), filepath=str(place_schema(place)))
    files = {"meta_file": str(layout.metadata), "config_file": str(layout.inference)}
    monai.bundle.verify_net_in_out("network_def", device="cpu", **files)
    target = place / "verify_model.ts"
    monai.bundle.ckpt_export("network_def", filepath=str(target), ckpt_file=str(layout.weights), **files)
    torch.jit.load(str(target))
    flow = monai.bundle.ConfigWorkflow(
        config_file=str(layout.inference),
        workflow_type="infer",
        logging_file=False,
        bundle_root=str(layout.folder),
        dataset_dir=str(place),
    )
    (place / "image.nii.gz").touch()  # the list of inputs must not be empty; nothing is read
    flow.initialize()
    assert flow.check_properties() == []


def test_a_planned_bundle_passes(bundle: Layout, tmp_path: Path) -> None:
    passes_the_zoo(bundle, tmp_path)


def test_every_shipped_bundle_passes(tmp_path: Path) -> None:
    for layout in shipped():
        place = tmp_path / layout.folder.name
        place.mkdir()
        passes_the_zoo(layout, place)
        assert [fault for check in verify_bundle(layout.folder) for fault in check.faults] == []
        assert layout.weights.stat().st_size <= LARGEST_WEIGHTS
        load_bundle(layout.folder.name).network()


def test_shipped_bundles_tell_nothing_of_this_machine() -> None:
    home = os.path.expanduser("~")
    for layout in shipped():
        for path in layout.folder.rglob("*"):
            if path.suffix in (".json", ".md", ".txt", ".conf") or path.name == "LICENSE":
                text = path.read_text(encoding="utf-8")
                assert not re.search(r"(?<![\w/:])/(?:home|root|tmp|mnt|work|data|Users)/", text), path
                assert home not in text, path


def test_shipped_model_cards_are_complete() -> None:
    """What a reader must find before trusting the labels."""
    wanted = ("Intended use", "Not to be used for", "Data", "Training", "Figures", "Known failures", "Changes")
    for layout in shipped():
        card = layout.readme.read_text()
        assert not [title for title in wanted if f"## {title}" not in card], layout.folder.name
        assert "not trained yet" not in card.lower(), layout.folder.name
