# %% [markdown]
# # Augmentation of your own
#
# What may happen to a training crop is a `Recipe`: probabilities and ranges. A preset is taken by name, changed by key, or replaced by any
# transform that takes and returns `{"image": (C, X, Y, Z), "label": (1, X, Y, Z)}`.
# %%
from dataclasses import replace

import numpy as np

from medseg.transforms.crops.recipes import RECIPES

print(sorted(RECIPES))
noisy = replace(RECIPES["light"], noise=0.8, noise_std=(0.1, 0.4))
print(noisy.noise, noisy.noise_std, noisy.rotation)
# %% [markdown]
# On the command line the same is `'train::dataset::augmentation={"preset":"light","noise":0.8,"noise_std":[0.1,0.4]}'`. A recipe of a folder
# of yours, `AUGMENTATIONS = {"noisy": Recipe(...)}`, is named as every other: `train::dataset::augmentation::preset=noisy`.
#
# A transform of MONAI in its place, in a file that `--config` names:
#
# ```json
# {"train::dataset::augmentation": {"_target_": "monai.transforms.RandGaussianNoised", "keys": "image", "prob": 0.2}}
# ```
#
# What a crop looks like afterwards:
# %%
from matplotlib.figure import Figure

from medseg.transforms.crops.augmentation import apply, draw

label = np.zeros((48, 48, 48), np.uint8)
label[14:34, 12:36, 18:30] = 1
image = (label + np.random.default_rng(0).normal(0, 0.1, label.shape))[None].astype(np.float32)
figure = Figure(figsize=(9, 2.4), layout="constrained")
for number, axes in enumerate(figure.subplots(1, 4)):
    recipe = noisy if number else replace(noisy, rotation=0.0, scaling=0.0, mirror=0.0, noise=0.0)
    parameters = draw(np.random.default_rng(number), (32, 32, 32), recipe=recipe)
    crop, crop_label = apply(image, label, (24, 24, 24), (32, 32, 32), parameters)
    axes.imshow(crop[0, :, :, 16], cmap="gray", vmin=-1, vmax=2)
    axes.contour(crop_label[:, :, 16], levels=[0.5], colors="red")
    axes.set_axis_off()
figure
