"""Every check of the public model zoo's CI, restated, for each bundle that the project ships."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import monai.bundle
import torch

from medseg.bundle.checks.verify import verify_bundle
from medseg.bundle.configs.metadata import place_schema
from medseg.bundle.load import load_bundle
from medseg.layout import Layout
from tests.bundle.shipped import each_shipped, shipped

LARGEST_WEIGHTS = 12_000_000  # bytes; git keeps every version for ever


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


def test_the_three_kernel_families_and_the_demo_are_shipped() -> None:
    names = {layout.folder.name for layout in shipped()}
    kernels = {"hippocampus_mr_mambavision", "hippocampus_mr_fastervit", "hippocampus_mr_gated_deltanet"}
    assert {*kernels, "brain_mr_demo"} <= names


@each_shipped
def test_every_shipped_bundle_passes(layout: Layout, tmp_path: Path) -> None:
    passes_the_zoo(layout, tmp_path)
    assert [fault for check in verify_bundle(layout.folder) for fault in check.faults] == []
    assert layout.weights.stat().st_size <= LARGEST_WEIGHTS
    load_bundle(layout.folder.name).network()


@each_shipped
def test_shipped_bundles_tell_nothing_of_this_machine(layout: Layout) -> None:
    home = os.path.expanduser("~")
    for path in layout.folder.rglob("*"):
        if path.suffix in (".json", ".md", ".txt", ".conf") or path.name == "LICENSE":
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"(?<![\w/:])/(?:home|root|tmp|mnt|work|data|Users)/", text), path
            assert home not in text, path


@each_shipped
def test_shipped_model_cards_are_complete(layout: Layout) -> None:
    """What a reader must find before trusting the labels."""
    wanted = ("Intended use", "Not to be used for", "Data", "Training", "Figures", "Known failures", "Changes")
    card = layout.readme.read_text()
    assert not [title for title in wanted if f"## {title}" not in card]
    assert "not trained yet" not in card.lower()
    assert "None recorded yet" not in card
    assert re.search(r"\| mean over labels \| 0\.\d+ \| 0\.\d+ to 0\.\d+ \| \d+ \|", card)
    assert "Fold 0 alone" in card
    metadata = json.loads(layout.metadata.read_text())
    assert metadata["eval_metrics"]
    assert all(0 < value <= 1 for value in metadata["eval_metrics"].values())


@each_shipped
def test_shipped_licences_name_the_data(layout: Layout) -> None:
    text = layout.license.read_text()
    assert "Apache License, Version 2.0" in text
    wanted = "CC BY-SA 4.0" if "hippocampus" in layout.folder.name else "McConnell Brain Imaging Centre"
    assert wanted in text
    assert json.loads(layout.plan.read_text())["data_folder"].startswith("data/")
