"""A split training inside NVFlare gives what the same sites give in one process; runs in `make test-extras`."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medseg.collaboration.half import read_half
from medseg.collaboration.opening import open_image_site, open_label_site
from medseg.commands.split import export_split, predict_split, run_split, split_job
from medseg.commands.split_plan import WantedSplit, plan_split, step_bytes
from medseg.config import read_json
from medseg.errors import BundleError
from medseg.io.atomic import write_json
from medseg.io.volume import read_label
from medseg.layout import Layout
from tests.collaboration.flare_runs import needs_nvflare, record, simulate
from tests.collaboration.split_samples import make_patients

pytestmark = needs_nvflare
STEPS = 20
TWO = {"flair": ["FLAIR"], "t1c": ["T1c"]}
THREE = {"mr": ["MR_T1"], "ct": ["CT"], "pet": ["PET"]}
SGD = {"train::module::optimizer": "sgd", "train::module::learning_rate": 0.01}


def planned(
    data: Path, output: Path, sites: dict[str, list[str]], *, steps: int = STEPS, roi: Sequence[int] = (32, 32, 32)
) -> Path:
    """A split bundle of tiny crops."""
    plan_split(
        data, sites, list(sites)[-1], output, WantedSplit(preset="resenc_unet", folds=3 if len(sites) == 3 else 2)
    )
    layout = Layout(output)
    for folder in (output, *(layout.site(name).folder for name in sites)):
        path = Layout(folder).train
        write_json(
            path,
            read_json(path) | {"roi_size": list(roi), "batch_size": 1, "max_epochs": 1, "steps_per_epoch": steps},
        )
    return output


def halves(bundle: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = {}
    for folder in sorted(Layout(bundle).sites.iterdir()):
        if (folder / "half.pt").is_file():
            state |= read_half(folder)[0]
    return state


def largest(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert set(a) == set(b)
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def compare(bundle: Path, copy: Path, name: str, overrides: dict[str, Any] | None = None, **how: Any) -> None:
    """Train a bundle inside NVFlare and a copy of it in this process; weights and losses are the same."""
    shutil.copytree(bundle, copy)
    began = time.monotonic()
    losses = run_split(bundle, overrides, **how)
    seconds = time.monotonic() - began
    wanted = run_split(copy, overrides, here=True)
    facts = {
        "steps": len(losses),
        "largest_difference": largest(halves(bundle), halves(copy)),
        "largest_difference_of_losses": max(abs(a - b) for a, b in zip(losses, wanted, strict=True)),
        "seconds": round(seconds, 1),
    }
    record(name, facts)
    assert facts["largest_difference"] == 0.0
    assert losses == wanted


def two(root: Path, *, steps: int = STEPS) -> Path:
    data = make_patients(root / "data", ("FLAIR", "T1c"), label="T1c")
    return planned(data, root / "flare", TWO, steps=steps)


def test_two_sites_in_the_simulator_equal_one_process_and_predict_across_and_send_what_the_plan_says(
    tmp_path: Path,
) -> None:
    from nvflare.app_opt.pt.decomposers import TensorDecomposer

    bundle, here = two(tmp_path), tmp_path / "here"
    compare(bundle, here, "split of two made-up sites, AdamW, simulator")
    found = predict_split(bundle, tmp_path / "a", ["p0"])
    wanted = predict_split(here, tmp_path / "b", ["p0"], here=True)
    assert np.array_equal(read_label(found[0]).array, read_label(wanted[0]).array)
    layout, job = split_job(bundle, {}, 0)
    party = open_image_site(layout.site("flair").folder, job)
    party.load()
    party.geometry(open_label_site(layout.site("t1c").folder, job).references(["p0"]))
    crop = {"case": "p0", "epoch": 0, "index": 0, "center": [9.0, 9.0, 9.0]}
    message = [TensorDecomposer().native_decompose(tensor) for tensor in party.forward(STEPS, [crop])]
    config = read_json(layout.train)
    printed = step_bytes(config["network_def"], config["roi_size"], config["batch_size"], "float32")["flair"]
    sent = sum(len(part) for part in message)
    record("bytes of a step, one way", {"formula": printed, "as NVFlare writes the tensors": sent})
    assert abs(sent - printed) / printed < 0.05


def test_two_sites_of_real_brain_images_in_the_simulator_with_sgd(tmp_path: Path, real_data: Path) -> None:
    for number, folder in enumerate(sorted((real_data / "brats").iterdir())):
        target = tmp_path / "data" / f"p{number}"
        target.mkdir(parents=True)
        for path in folder.rglob("*"):
            for word, channel in (("flair", "FLAIR_image"), ("t1c", "T1c_image"), ("otmulticlass", "T1c_mask")):
                if path.is_file() and word in path.name.lower():
                    shutil.copy(path, target / f"{channel}{''.join(path.suffixes[-2:])}")
    bundle = planned(tmp_path / "data", tmp_path / "flare", TWO)
    compare(bundle, tmp_path / "here", "split of brats FLAIR | T1c and labels, SGD, simulator", SGD)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_three_sites_of_real_sarcoma_images_in_the_simulator(tmp_path: Path, real_data: Path, optimizer: str) -> None:
    for folder in sorted((real_data / "sarcoma_ct_mr_pet").iterdir())[:4]:
        shutil.copytree(folder, tmp_path / "data" / folder.name)
    bundle = planned(tmp_path / "data", tmp_path / "flare", THREE, roi=(32, 32, 16))
    name = f"split of sarcoma MR | CT | PET and labels, {optimizer}, simulator"
    compare(bundle, tmp_path / "here", name, SGD if optimizer == "sgd" else None)


def test_real_processes_with_certificates_give_what_one_process_gives(tmp_path: Path) -> None:
    compare(two(tmp_path), tmp_path / "here", "split of two made-up sites, AdamW, real processes (POC)", poc=True)


def test_the_exported_job_runs_in_nvflares_own_simulator_and_holds_no_path_of_a_site(tmp_path: Path) -> None:
    bundle = two(tmp_path, steps=3)
    shutil.copytree(bundle, tmp_path / "here")
    job = export_split(bundle, tmp_path / "job")
    texts = {path: path.read_text(encoding="utf-8") for path in job.rglob("*.json")}
    assert any("medseg.collaboration.flare_sites.SplitServer" in text for text in texts.values())
    assert not [path for path, text in texts.items() if str(tmp_path) in text]
    with pytest.raises(BundleError, match="is not empty"):
        export_split(bundle, tmp_path / "job")
    simulate(job, ["flair"], Layout(bundle).sites, tmp_path / "simulator")
    run_split(tmp_path / "here", here=True)
    difference = largest(halves(bundle), halves(tmp_path / "here"))
    record("split, exported job in NVFlare's simulator", {"steps": 3, "largest_difference": difference})
    assert difference == 0.0
