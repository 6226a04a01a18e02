# %% [markdown]
# # The same folder under MONAI's own commands
#
# A bundle that `medseg plan` wrote is a MONAI bundle: `python -m monai.bundle` trains it and predicts with it, with the same labels as
# `medseg predict`.
# %%
import subprocess
import sys
from pathlib import Path

import medseg
from medseg.datasets.demo import make_demo_dataset


def run(*words: str) -> str:
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


make_demo_dataset("data", subjects=3, left_out=1, spacing_mm=4.0)
medseg.plan("data", "bundle", device="cpu", preset="resenc_unet", folds=3)
scores = medseg.fit("bundle", fold=0, device="cpu", overrides={"max_epochs": 2, "steps_per_epoch": 5, "num_workers": 0})
print(sorted(path.name for path in Path("bundle/configs").iterdir()))
# %% [markdown]
# Prediction by MONAI's workflow, beside ours:
# %%
run("monai.bundle", "run", "--config_file", "bundle/configs/inference.json", "--dataset_dir", "data/test_images",
    "--output_dir", "by_monai", "--device", "cpu")  # fmt: skip
found = medseg.predict(
    "bundle", "data/test_images", "by_medseg", options=medseg.PredictOptions(device="cpu", engine="eager")
)
# %%
import nibabel
import numpy as np

theirs = nibabel.load(next(Path("by_monai").rglob("*.nii.gz")))
ours = nibabel.load(next(Path("by_medseg").glob("*.nii.gz")))
print("equal labels:", np.array_equal(np.asarray(theirs.dataobj), np.asarray(ours.dataobj)))
print("equal places:", np.allclose(theirs.affine, ours.affine))
