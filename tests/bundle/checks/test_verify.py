"""`medseg bundle verify` passes on a sound bundle and names each of the planted faults."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from medseg.bundle.checks.verify import verify_bundle
from medseg.bundle.weights import read_state_dict, sha256_of, write_state_dict
from medseg.layout import Layout
from medseg.networks import build_network


def edit(path: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def faults_of(folder: Path) -> dict[str, list[str]]:
    return {check.name: check.faults for check in verify_bundle(folder) if check.faults}


def metadata_lacks_a_key(layout: Layout) -> None:
    edit(layout.metadata, lambda content: content.pop("task"))


def version_without_changelog(layout: Layout) -> None:
    edit(layout.metadata, lambda content: content.update(version="9.9.9"))


def wrong_output_channels(layout: Layout) -> None:
    edit(layout.metadata, lambda content: content["network_data_format"]["outputs"]["pred"].update(num_channels=4))


def wrong_input_channels(layout: Layout) -> None:
    edit(layout.metadata, lambda content: content["network_data_format"]["inputs"]["image"].update(num_channels=2))


def label_names_differ(layout: Layout) -> None:
    def swap(content: Any) -> None:
        names = content["network_data_format"]["outputs"]["pred"]["channel_def"]
        names["1"], names["2"] = names["2"], names["1"]

    edit(layout.metadata, swap)


def preprocessing_drifts(layout: Layout) -> None:
    edit(layout.inference, lambda content: content["preprocessing_def"].update(spacing=[1.0, 1.0, 1.0]))


def network_drifts(layout: Layout) -> None:
    edit(layout.train, lambda content: content["network_def"].update(size="small"))


def window_drifts(layout: Layout) -> None:
    edit(layout.evaluate, lambda content: content.update(roi_size=[64, 64, 64]))


def weights_of_another_network(layout: Layout) -> None:
    write_state_dict(layout.weights, build_network("resenc_unet", out_channels=3).state_dict())


def weights_with_nan(layout: Layout) -> None:
    state = read_state_dict(layout.weights)
    next(value for value in state.values() if value.is_floating_point()).view(-1)[0] = torch.nan
    write_state_dict(layout.weights, state)


def wrong_hash(layout: Layout) -> None:
    lines = [f"{sha256_of(layout.weights)}  models/model.pt", f"{'0' * 64}  LICENSE"]
    layout.checksums.write_text("\n".join(lines) + "\n")


def license_missing(layout: Layout) -> None:
    layout.license.unlink()


def broken_json(layout: Layout) -> None:
    layout.train.write_text(layout.train.read_text()[:-20])


def dangling_reference(layout: Layout) -> None:
    edit(layout.inference, lambda content: content["dataset"].update(transform="@preprocesing"))


def unknown_argument(layout: Layout) -> None:
    edit(layout.inference, lambda content: content["inferer"].update(overlapp=0.25))


def forbidden_target(layout: Layout) -> None:
    edit(layout.evaluate, lambda content: content.update(extra={"_target_": "subprocess.run", "args": "true"}))


def property_missing(layout: Layout) -> None:
    edit(layout.train, lambda content: content["train"].pop("inferer"))


def property_not_referenced(layout: Layout) -> None:
    edit(layout.inference, lambda content: content["evaluator"].update(postprocessing="@preprocessing"))


def fold_leaks(layout: Layout) -> None:
    edit(layout.splits, lambda content: content[0]["train"].append(content[0]["val"][0]))


FAULTS = {
    metadata_lacks_a_key: "'task' is a required property",
    version_without_changelog: "no entry for version '9.9.9'",
    wrong_output_channels: "outputs::pred::num_channels is 4",
    wrong_input_channels: "inputs::image::num_channels is 2",
    label_names_differ: 'labels::1 is "posterior" against "anterior"',
    preprocessing_drifts: "train.json and inference.json differ: preprocessing_def::spacing",
    network_drifts: 'network_def::size is "small" against "nano"',
    window_drifts: "evaluate.json: roi_size is [64, 64, 64]",
    weights_of_another_network: "weights of another network",
    weights_with_nan: "NaN or infinity",
    wrong_hash: "LICENSE has changed",
    license_missing: "LICENSE is missing",
    broken_json: "configs/train.json is not valid JSON",
    dangling_reference: "dataset::transform: refers to @preprocesing",
    unknown_argument: "takes no argument 'overlapp'. Did you mean overlap",
    forbidden_target: "extra::_target_: 'subprocess.run'",
    property_missing: "has no train::inferer",
    property_not_referenced: "must refer to @postprocessing",
    fold_leaks: "is in both train and val",
}


def test_sound_bundle_has_no_faults(bundle_and_data: tuple[Layout, Path]) -> None:
    assert faults_of(bundle_and_data[0].folder) == {}


@pytest.mark.parametrize("plant", FAULTS, ids=lambda plant: plant.__name__)
def test_planted_fault_is_named(plant: Callable[[Layout], None], bundle: Layout) -> None:
    plant(bundle)
    found = [fault for faults in faults_of(bundle.folder).values() for fault in faults]
    assert any(FAULTS[plant] in fault for fault in found), found


def test_verify_leaves_the_folder_as_it_was(bundle: Layout) -> None:
    before = sorted(path for path in bundle.folder.rglob("*"))
    list(verify_bundle(bundle.folder))
    assert sorted(path for path in bundle.folder.rglob("*")) == before
