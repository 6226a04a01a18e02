# %% [markdown]
# # A data set in a layout of your own
#
# A layout says whether a folder is its own (`matches`) and turns it into a `Dataset` (`load`): cases with image and label files, names of
# labels and channels. Everything else (reading, checks, folds, training, scoring) is the same for all layouts.
#
# Here a hospital keeps one folder per patient, with `t1.nii.gz` and `hippocampus.nii.gz`.
# %%
from pathlib import Path

import nibabel
import numpy as np

random = np.random.default_rng(0)
for number in range(3):
    folder = Path(f"hospital/patient{number}")
    folder.mkdir(parents=True)
    label = np.zeros((24, 24, 24), np.uint8)
    label[8:16, 8:16, 6 + number : 14 + number] = 1
    image = (label * 2 + random.normal(0, 0.3, label.shape)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), folder / "t1.nii.gz")
    nibabel.save(nibabel.Nifti1Image(label, np.eye(4)), folder / "hippocampus.nii.gz")
# %%
Path("my_code").mkdir()
_ = Path("my_code/__init__.py").write_text(
    """
from pathlib import Path
from types import SimpleNamespace
from medseg.datasets import Dataset
from medseg.io import Case

def matches(folder: Path) -> bool:
    return any(folder.glob("*/hippocampus.nii.gz"))

def load(folder: Path) -> Dataset:
    cases = [
        Case(name=place.parent.name, images=(place.with_name("t1.nii.gz"),), label=place)
        for place in sorted(folder.glob("*/hippocampus.nii.gz"))
    ]
    return Dataset("hospital", folder, cases, [], {0: "background", 1: "hippocampus"}, {0: "MRI"})

DATASETS = {"hospital": SimpleNamespace(matches=matches, load=load)}
"""
)
# %% [markdown]
# `medseg plan --data hospital --output bundle project=./my_code` finds it; from Python:
# %%
import medseg

own = {"project": "./my_code"}
plan = medseg.plan("hospital", "bundle", overrides=own, folds=3, device="cpu", preset="resenc_unet")
print(plan.labels, plan.splits[0])
