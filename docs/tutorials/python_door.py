# %% [markdown]
# # The verbs from Python
#
# Every verb of the command line is a function. This page plans, trains for a moment, predicts and scores; the data set is made on the
# spot from the template that the package nilearn ships, so its Dice says that the path runs, nothing else.
# %%
import medseg
from medseg.datasets.demo import make_demo_dataset

dataset = make_demo_dataset("data", subjects=4, left_out=1, spacing_mm=4.0)
print(len(dataset.cases), "labelled cases,", ", ".join(dataset.labels.values()))
# %% [markdown]
# `plan` measures the data, decides, and says why; the bundle is a folder of JSON files that MONAI's own commands run too.
# %%
plan = medseg.plan("data", "bundle", device="cpu", preset="mambavision")
print(plan.spacing, plan.roi_size, plan.batch_size)
print(plan.reasons["spacing"])
# %% [markdown]
# `fit` trains one fold. Keys of train.json are overridden by their path.
# %%
scores = medseg.fit(
    "bundle", fold=0, device="cpu", overrides={"max_epochs": 6, "steps_per_epoch": 10, "num_workers": 0}
)
print(sorted(scores[0]))
# %% [markdown]
# A bundle is a function from an image to its label map, on the image's own grid: files, arrays, tensors, nibabel and SimpleITK images.
# %%
segment = medseg.load("bundle", medseg.PredictOptions(device="cpu", engine="eager"))
path = segment("data/test_images/subject_5.nii.gz", "labels/subject_5.nii.gz")
evaluation = medseg.evaluate("labels", "data/test_labels", labels=segment.labels)
print(evaluation)
