"""One contender of the prediction benchmark in its own process: commands in on stdin, JSON lines out.

Its own process, since peak memory is a property of a process; kept alive, since models stay loaded in real use too.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from prediction_phantom import CLASSES, LOWER, UPPER

warnings.simplefilter("ignore")

SPACING = (1.5, 1.5, 1.5)
ROI = (96, 96, 96)


def unet(classes: int = CLASSES) -> torch.nn.Module:
    """nnU-Net's plain U-Net, small: 101 GFLOP for a window of 96^3."""
    from monai.networks.nets import DynUNet

    return DynUNet(
        3, 1, classes, [3] * 5, [1, 2, 2, 2, 2], [2] * 4, filters=[16, 32, 64, 128, 256], norm_name="instance"
    ).eval()


class Stub(torch.nn.Module):
    """All classes, no computation to speak of, many labels where the image is noisy: what is left is bookkeeping."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.head = torch.nn.Conv3d(4, classes, 1)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        blurred = torch.nn.functional.avg_pool3d(windows, 3, 1, 1)
        return self.head(torch.cat((windows, (4 * windows).sin(), (9 * blurred).cos(), blurred), dim=1))


def reset_peak() -> None:
    """Start a new high-water mark of this process's memory (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def memory(key: str) -> int:
    """VmRSS or VmHWM in bytes."""
    line = next(one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith(key))
    return int(line.split()[1]) * 1024


def monai_chain(
    network: torch.nn.Module, spacing: tuple[float, ...] | None, roi: tuple[int, ...], *, clip_last: bool = False
) -> Any:
    """The usual inference.json of the model zoo, as Python.

    Args:
        network: image (B, 1, X, Y, Z) -> logits.
        spacing: of the new grid, mm; None keeps the image's.
        roi: extent of a window.
        clip_last: clip and scale after resampling, as most bundles of the zoo do, and not before, as the table does.
    """
    from monai.data import MetaTensor
    from monai.inferers import SlidingWindowInferer
    from monai.transforms import (
        AsDiscreted,
        Compose,
        EnsureChannelFirstd,
        Invertd,
        LoadImaged,
        Orientationd,
        SaveImaged,
        ScaleIntensityRanged,
        Spacingd,
    )

    middle, half = (UPPER + LOWER) / 2, (UPPER - LOWER) / 2
    b = {"b_min": (LOWER - middle) / half, "b_max": (UPPER - middle) / half}
    steps: list[Any] = [LoadImaged("image"), EnsureChannelFirstd("image"), Orientationd("image", axcodes="RAS")]
    # Clipped before resampling, as nnU-Net and ours do: the other order gives other values where a voxel of the new grid lies
    # between air (below the window) and skin, and with them other labels there.
    clip = ScaleIntensityRanged("image", a_min=LOWER, a_max=UPPER, clip=True, **b)
    if not clip_last:
        steps.append(clip)
    if spacing:
        # edges of the volume stay where they are, as ours do: else the two grids lie 0.3 mm apart and labels differ
        steps.append(Spacingd("image", pixdim=spacing, mode="bilinear", scale_extent=True))
    if clip_last:
        steps.append(clip)
    before = Compose(steps)
    inferer = SlidingWindowInferer(roi, 1, 0.5, "gaussian")

    def run(source: str, target: str) -> None:
        data = before({"image": source})
        with torch.no_grad():
            logits = inferer(data["image"][None], network)[0]
        data["pred"] = logits if isinstance(logits, MetaTensor) else MetaTensor(logits, meta=data["image"].meta)
        folder, name = os.path.split(target)
        after = Compose(
            [
                Invertd("pred", transform=before, orig_keys="image", nearest_interp=False, to_tensor=True),
                AsDiscreted("pred", argmax=True),
                SaveImaged(
                    "pred", output_dir=folder, output_postfix="", output_ext=".nii.gz", separate_folder=False,
                    print_log=False, output_dtype=np.uint8, resample=False,
                    output_name_formatter=lambda meta, saver: {"subject": name.removesuffix(".nii.gz"), "idx": None},
                ),
            ]
        )  # fmt: skip
        after(data)

    return run


def our_chain(
    network: torch.nn.Module, spacing: tuple[float, ...] | None, roi: tuple[int, ...], engine: str, precision: str,
    **options: Any,
) -> Any:  # fmt: skip
    """read_image, Predictor, write_label: what `medseg predict` does for a case."""
    from medseg.inference import Execution, LabelSettings, Predictor
    from medseg.io import read_image, write_label
    from medseg.transforms.preprocessing import Preprocessing

    middle, half = (UPPER + LOWER) / 2, (UPPER - LOWER) / 2
    recipe = Preprocessing(spacing, [{"kind": "ct", "lower": LOWER, "upper": UPPER, "mean": middle, "std": half}])
    predictor = Predictor(network, recipe, LabelSettings(roi), Execution(engine=engine, precision=precision, **options))
    spent = {"network": 0.0}

    def run(source: str, target: str) -> dict[str, float]:
        volume = read_image(source)
        header = volume.header
        prepared = predictor.prepare(volume)
        del volume
        spent["network"] = 0.0
        label = predictor.segment(prepared)
        write_label(target, label, header)
        return dict(spent)

    def timed(call: Any) -> Any:
        def wrapper(windows: torch.Tensor) -> torch.Tensor:
            began = time.perf_counter()
            result = call(windows)
            spent["network"] += time.perf_counter() - began
            return result

        return wrapper

    original = predictor._ensure_engines

    def ensure(*arguments: Any) -> None:
        fresh = not predictor.engines
        original(*arguments)
        if fresh:
            for one in predictor.engines:
                one.run = timed(one.run)

    predictor._ensure_engines = ensure  # type: ignore[method-assign]
    return run


def build(job: dict[str, Any]) -> Any:
    """The contender that a job describes."""
    torch.set_num_threads(job["threads"])
    if job["network"] == "unet":
        network = unet(job["classes"])
        network.load_state_dict(torch.load(job["weights"], weights_only=True))
    else:
        torch.manual_seed(0)
        network = Stub(job["classes"]).eval()
    spacing = tuple(job["spacing"]) if job["spacing"] else None
    if job["kind"] == "monai":
        return monai_chain(network, spacing, tuple(job["roi"]))
    return our_chain(network, spacing, tuple(job["roi"]), job["engine"], job["precision"], **job.get("options", {}))


def folder(inputs: str, output: str) -> list[int]:
    """Predict all cases of a folder as the verb does, with a stub; resident memory after each."""
    from medseg.cases.batch import Job, OutputOptions, run_cases
    from medseg.inference import Execution, LabelSettings, Predictor
    from medseg.io import find_inputs
    from medseg.transforms.preprocessing import Preprocessing

    torch.set_num_threads(1)
    recipe = Preprocessing((2.5, 2.5, 2.5), [{"kind": "zscore"}])
    predictor = Predictor(Stub(5).eval(), recipe, LabelSettings((16, 16, 16)), Execution(engine="eager"))
    labels = {value: f"organ {value}" for value in range(5)}
    job = Job(lambda: predictor, labels, {"name": "stub"}, OutputOptions(Path(output)))
    held = []
    for result in run_cases(find_inputs([inputs]), job):
        if result.status != "done":
            raise SystemExit(f"{result.name}: {result.error}")
        held.append(memory("VmRSS"))
    return held


def main() -> None:
    """Serve `run` commands until stdin ends."""
    if sys.argv[1:2] == ["--folder"]:
        print(json.dumps({"rss_bytes": folder(*sys.argv[2:])}))
        return
    run = build(json.loads(sys.stdin.readline()))
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        reset_peak()
        before, began, cpu = memory("VmRSS"), time.perf_counter(), time.process_time()
        extra = run(command["source"], command["target"]) or {}
        answer = {
            "seconds": time.perf_counter() - began,
            "cpu_seconds": time.process_time() - cpu,
            "extra_bytes": memory("VmHWM") - before,
            "peak_bytes": memory("VmHWM"),
            **{f"{key}_seconds": value for key, value in extra.items()},
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
