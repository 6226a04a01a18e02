"""A split training inside NVFlare gives what the same sites give in one process; runs in `make test-extras`."""

from __future__ import annotations

import importlib.util
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medseg.collaboration.half import read_half
from medseg.commands.split import export_split, predict_split, run_split
from medseg.commands.split_plan import WantedSplit, plan_split
from medseg.config import read_json
from medseg.io.atomic import write_json
from medseg.io.volume import read_label
from medseg.layout import Layout
from tests.collaboration.split_samples import make_patients
from tests.collaboration.test_federated import record

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("nvflare") is None, reason="the package nvflare is not installed"
)
STEPS = 20
TWO = {"flair": ["FLAIR"], "t1c": ["T1c"]}


def planned(data: Path, output: Path, sites: dict[str, list[str]], *, steps: int = STEPS) -> Path:
    """A split bundle of tiny crops."""
    plan_split(
        data, sites, list(sites)[-1], output, WantedSplit(preset="resenc_unet", folds=3 if len(sites) == 3 else 2)
    )
    layout = Layout(output)
    for folder in (output, *(layout.site(name).folder for name in sites)):
        path = Layout(folder).train
        write_json(
            path,
            read_json(path) | {"roi_size": [32, 32, 32], "batch_size": 1, "max_epochs": 1, "steps_per_epoch": steps},
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


def compare(data: Path, tmp_path: Path, sites: dict[str, list[str]], name: str, **how: Any) -> None:
    steps = int(how.pop("steps", STEPS))
    bundle, copy = planned(data, tmp_path / "flare", sites, steps=steps), tmp_path / "here"
    shutil.copytree(bundle, copy)
    began = time.monotonic()
    losses = run_split(bundle, **how)
    seconds = time.monotonic() - began
    wanted = run_split(copy, here=True)
    facts = {
        "steps": len(losses),
        "largest_difference": largest(halves(bundle), halves(copy)),
        "seconds": round(seconds, 1),
    }
    facts["largest_difference_of_losses"] = max(abs(a - b) for a, b in zip(losses, wanted, strict=True))
    record(name, facts)
    assert len(losses) == steps
    assert facts["largest_difference"] == 0.0
    assert losses == wanted


def test_two_sites_in_the_simulator_equal_one_process_and_predict_across(tmp_path: Path) -> None:
    data = make_patients(tmp_path / "data", ("FLAIR", "T1c"), label="T1c")
    compare(data, tmp_path, TWO, "split of two made-up sites, simulator")
    found = predict_split(tmp_path / "flare", tmp_path / "a", ["p0"])
    wanted = predict_split(tmp_path / "here", tmp_path / "b", ["p0"], here=True)
    assert np.array_equal(read_label(found[0]).array, read_label(wanted[0]).array)


def test_two_sites_of_real_brain_images_in_the_simulator(tmp_path: Path, real_data: Path) -> None:
    for number, folder in enumerate(sorted((real_data / "brats").iterdir())):
        target = tmp_path / "data" / f"p{number}"
        target.mkdir(parents=True)
        for path in folder.rglob("*"):
            for word, channel in (("flair", "FLAIR_image"), ("t1c", "T1c_image"), ("otmulticlass", "T1c_mask")):
                if path.is_file() and word in path.name.lower():
                    shutil.copy(path, target / f"{channel}{''.join(path.suffixes[-2:])}")
    compare(tmp_path / "data", tmp_path, TWO, "split of brats FLAIR | T1c and labels, simulator")


def test_an_exported_job_names_the_parties_and_holds_no_path_of_a_site(tmp_path: Path) -> None:
    data = make_patients(tmp_path / "data", ("FLAIR", "T1c"), label="T1c")
    bundle = planned(data, tmp_path / "flare", TWO)
    job = export_split(bundle, tmp_path / "job")
    texts = {path: path.read_text(encoding="utf-8") for path in job.rglob("*.json")}
    assert any("medseg.collaboration.flare_sites.SplitServer" in text for text in texts.values())
    assert not [path for path, text in texts.items() if str(data) in text]
