"""MONAI's own commands on our bundles, in this process: each call of `python -m monai.bundle` costs seconds of imports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import monai.bundle
import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow

from medseg.bundle.configs.metadata import place_schema
from medseg.bundle.load import load_bundle
from medseg.inference import SlidingWindowInferer
from medseg.layout import Layout
from medseg.transforms.restoring import restore_label

KINDS = {"train": "train", "inference": "infer", "evaluate": "infer"}


def workflow(layout: Layout, kind: str, **overrides: Any) -> ConfigWorkflow:
    return ConfigWorkflow(
        config_file=str(layout.configs / f"{kind}.json"),
        workflow_type=KINDS[kind],
        logging_file=False,
        bundle_root=str(layout.folder),
        **overrides,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_properties_are_complete(kind: str, bundle: Layout) -> None:
    flow = workflow(bundle, kind)
    flow.initialize()
    assert flow.check_properties() == []


def predicted_by_hand(layout: Layout, image: Path) -> np.ndarray:
    """The same steps as `medseg predict`, spelled out."""
    opened = load_bundle(layout.folder)
    source = nibabel.load(image)
    prepared = opened.preprocessing.apply(np.asarray(source.dataobj, np.float32)[None], source.affine)
    inferer = SlidingWindowInferer(opened.roi_size, overlap=0.5, mode="gaussian")
    with torch.no_grad():
        logits = inferer(torch.from_numpy(prepared.image)[None], opened.network())[0]
    return restore_label(logits, prepared.grid)


def test_inference_gives_the_labels_of_the_verb(bundle: Layout, bundle_and_data: tuple[Layout, Path]) -> None:
    data = bundle_and_data[1]
    flow = workflow(bundle, "inference", dataset_dir=str(data), output_dir=str(bundle.folder / "out"))
    flow.initialize()
    flow.run()
    flow.finalize()
    written = sorted((bundle.folder / "out").glob("*.nii.gz"))
    assert [path.name for path in written] == [f"case{number}_seg.nii.gz" for number in range(3)]
    for path, image in zip(written, sorted((data / "images").iterdir()), strict=True):
        label, source = nibabel.load(path), nibabel.load(image)
        np.testing.assert_allclose(label.affine, source.affine, atol=1e-6)
        expected = predicted_by_hand(bundle, image)
        assert label.shape == source.shape == expected.shape
        assert np.issubdtype(label.get_data_dtype(), np.integer)
        assert np.mean(np.asarray(label.dataobj) == expected) >= 0.9999
        assert len(np.unique(expected)) > 1


def test_evaluate_writes_dice_per_case(bundle: Layout) -> None:
    flow = workflow(bundle, "evaluate", output_dir=str(bundle.folder / "out"))
    flow.initialize()
    flow.run()
    table = (bundle.folder / "out" / "val_mean_dice_raw.csv").read_text().splitlines()
    assert table[0].split(",")[0] == "filename"
    assert table[1].split(",")[0] == "case0.nii.gz"  # the name, without the folder
    assert all(0 <= float(value) <= 1 for value in table[1].split(",")[1:])


def test_missing_weights_stop_inference(bundle: Layout) -> None:
    bundle.weights.unlink()
    flow = workflow(bundle, "inference")
    flow.initialize()
    with pytest.raises(Exception, match=r"model\.pt|Failed to evaluate"):
        flow.run()


def test_verify_metadata_works_offline(bundle: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    import urllib.request

    def no_network(*_: Any, **__: Any) -> None:
        raise OSError("no network in this test")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    path = place_schema(bundle.folder)
    monai.bundle.verify_metadata(meta_file=str(bundle.metadata), filepath=str(path))
    content = json.loads(bundle.metadata.read_text())
    del content["network_data_format"]
    bundle.metadata.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="Failed validating"):
        monai.bundle.verify_metadata(meta_file=str(bundle.metadata), filepath=str(path))


def test_verify_net_in_out(bundle: Layout) -> None:
    monai.bundle.verify_net_in_out(
        "network_def", meta_file=str(bundle.metadata), config_file=str(bundle.inference), device="cpu"
    )


def test_ckpt_export_scripts_the_network(bundle: Layout) -> None:
    """The zoo's command; the file equals eager, carries the configuration, and is what MONAI Deploy reads."""
    target = bundle.models / "model.ts"
    monai.bundle.ckpt_export(
        "network_def",
        filepath=str(target),
        ckpt_file=str(bundle.weights),
        meta_file=str(bundle.metadata),
        config_file=str(bundle.inference),
    )
    extra = {"inference.json": "", "metadata.json": ""}
    scripted = torch.jit.load(str(target), _extra_files=extra)
    image = torch.rand(1, 1, 32, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(scripted(image), load_bundle(bundle.folder).network()(image), atol=1e-4, rtol=1e-4)
    assert json.loads(extra["inference.json"])["network_def"]["_target_"] == "medseg.components.build_network"
    assert json.loads(extra["metadata.json"])["name"] == "tiny_mr_unet"


@pytest.mark.parametrize("kind", ["train", "inference"])
def test_load_gives_the_network_with_its_weights(kind: str, bundle: Layout) -> None:
    network = monai.bundle.load(
        bundle.folder.name, bundle_dir=str(bundle.folder.parent), workflow_type=kind, device="cpu"
    )
    expected = load_bundle(bundle.folder).network().state_dict()
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, expected[name])
