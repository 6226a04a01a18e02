"""One 128^3 training patch: affine pass, whole recipe and fetch, against MONAI, batchgeneratorsv2 (nnU-Net) and blosc2.

The last two are measured where they are installed. One thread. The image parts of the affine passes are compared first.

Run: python benchmarks/bench_augmentation.py [--rounds 9]
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contest import interleave, ratio, save
from monai.data import PersistentDataset
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandAxisFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandSimulateLowResolutiond,
    SpatialCropd,
)

from medseg.transforms.crops.augmentation import AugmentationParameters, ChannelParameters, apply, build_recipe, draw
from medseg.transforms.crops.sampling import SampleKey

CASE, ROI = (200, 200, 200), (128, 128, 128)
MIDDLE = (99.5, 99.5, 99.5)
ANGLE = 0.35


def scene() -> tuple[np.ndarray, np.ndarray]:
    """A smooth image and a map of 14 balls."""
    generator = np.random.default_rng(0)
    label = np.zeros(CASE, dtype=np.uint8)
    axes = np.ogrid[: CASE[0], : CASE[1], : CASE[2]]
    for value in range(1, 15):
        center, radius = generator.uniform(40, 160, 3), generator.uniform(15, 40)
        label[sum((a - c) ** 2 for a, c in zip(axes, center, strict=True)) < radius**2] = value
    image = label.astype(np.float32) + generator.normal(0, 0.3, CASE).astype(np.float32)
    return image[None], label


def our_affine(image: np.ndarray, label: np.ndarray) -> Callable[[], Any]:
    c, s = np.cos(ANGLE), np.sin(ANGLE)
    matrix = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    parameters = AugmentationParameters(matrix, None, (ChannelParameters(),))
    return lambda: apply(image, label, MIDDLE, ROI, parameters)


def monai_affine(image: torch.Tensor, label: torch.Tensor) -> Callable[[], Any]:
    transform = RandAffined(
        ("image", "label"), prob=1.0, rotate_range=[(0, 0), (0, 0), (ANGLE, ANGLE)], spatial_size=ROI,
        mode=("bilinear", "nearest"), padding_mode="zeros",
    )  # fmt: skip
    return lambda: transform({"image": image, "label": label})


def peer_affine(image: torch.Tensor, label: torch.Tensor) -> Callable[[], Any]:
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform

    transform = SpatialTransform(
        ROI, patch_center_dist_from_border=0, random_crop=False, p_elastic_deform=0, p_rotation=1, rotation=(ANGLE, ANGLE),
        p_scaling=1, scaling=(1.0, 1.0), p_synchronize_scaling_across_axes=1, bg_style_seg_sampling=False,
    )  # fmt: skip
    return lambda: transform(image=image, segmentation=label)


def monai_recipe(image: torch.Tensor, label: torch.Tensor) -> Callable[[], Any]:
    """The probabilities and ranges of our default recipe, built of MONAI's transforms."""
    both, one = ("image", "label"), ("image",)
    angle = np.deg2rad(30)
    chain = Compose(
        [
            RandAffined(
                both, prob=0.36, rotate_range=[(-angle, angle)] * 3, scale_range=[(-0.3, 0.4)] * 3, spatial_size=ROI,
                mode=("bilinear", "nearest"), padding_mode="zeros",
            ),
            RandGaussianNoised(one, prob=0.1, std=0.1),
            RandGaussianSmoothd(one, (0.5, 1.0), (0.5, 1.0), (0.5, 1.0), prob=0.2),
            RandScaleIntensityd(one, factors=0.25, prob=0.15),
            RandAdjustContrastd(one, prob=0.15, gamma=(0.75, 1.25)),
            RandSimulateLowResolutiond(one, prob=0.25, zoom_range=(0.5, 1.0)),
            RandAdjustContrastd(one, prob=0.1, gamma=(0.7, 1.5), invert_image=True, retain_stats=True),
            RandAdjustContrastd(one, prob=0.3, gamma=(0.7, 1.5), retain_stats=True),
            *[RandAxisFlipd(both, prob=0.5) for _ in range(3)],
        ]
    )  # fmt: skip
    chain.set_random_state(0)
    return lambda: chain({"image": image, "label": label})


def peer_recipe(image: torch.Tensor, label: torch.Tensor) -> Callable[[], Any]:
    """nnU-Net 2's default 3D training transforms, in its order and with its probabilities."""
    from batchgeneratorsv2.helpers.scalar_type import RandomScalar  # noqa: F401  (fails early on other versions)
    from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
    from batchgeneratorsv2.transforms.intensity.contrast import BGContrast, ContrastTransform
    from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
    from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
    from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
    from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
    from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
    from batchgeneratorsv2.transforms.utils.random import RandomTransform

    angle = (-30 / 180 * np.pi, 30 / 180 * np.pi)

    def gamma(*, invert: bool, probability: float) -> Any:
        change = GammaTransform(BGContrast((0.7, 1.5)), p_invert_image=int(invert), synchronize_channels=False,
                                p_per_channel=1, p_retain_stats=1)  # fmt: skip
        return RandomTransform(change, apply_probability=probability)

    low = SimulateLowResolutionTransform(
        scale=(0.5, 1), synchronize_channels=False, synchronize_axes=True, ignore_axes=None, allowed_channels=None,
        p_per_channel=0.5,
    )  # fmt: skip
    contrast = BGContrast((0.75, 1.25))
    blur = GaussianBlurTransform(blur_sigma=(0.5, 1.0), synchronize_channels=False, synchronize_axes=False,
                                 p_per_channel=0.5, benchmark=True)  # fmt: skip
    noise = GaussianNoiseTransform(noise_variance=(0, 0.1), p_per_channel=1, synchronize_channels=True)
    gain = MultiplicativeBrightnessTransform(multiplier_range=contrast, synchronize_channels=False, p_per_channel=1)
    stretch = ContrastTransform(
        contrast_range=contrast, preserve_range=True, synchronize_channels=False, p_per_channel=1
    )
    chain = ComposeTransforms(
        [
            SpatialTransform(
                ROI, patch_center_dist_from_border=0, random_crop=False, p_elastic_deform=0, p_rotation=0.2,
                rotation=angle, p_scaling=0.2, scaling=(0.7, 1.4), p_synchronize_scaling_across_axes=1,
                bg_style_seg_sampling=False,
            ),
            RandomTransform(noise, apply_probability=0.1),
            RandomTransform(blur, apply_probability=0.2),
            RandomTransform(gain, apply_probability=0.15),
            RandomTransform(stretch, apply_probability=0.15),
            RandomTransform(low, apply_probability=0.25),
            gamma(invert=True, probability=0.1),
            gamma(invert=False, probability=0.3),
            MirrorTransform(allowed_axes=(0, 1, 2)),
        ]
    )  # fmt: skip
    return lambda: chain(image=image, segmentation=label)


def our_recipe(image: np.ndarray, label: np.ndarray) -> Callable[[], Any]:
    numbers, recipe = itertools.count(), build_recipe("default")

    def run() -> Any:
        parameters = draw(SampleKey(0, 0, next(numbers)).generator(2), ROI, 1, recipe=recipe)
        return apply(image, label, MIDDLE, ROI, parameters)

    return run


def many(run: Callable[[], Any], count: int) -> Callable[[], None]:
    """Random recipes vary from draw to draw: time a whole series of them."""

    def series() -> None:
        for _ in range(count):
            run()

    return series


def fetches(image: np.ndarray, label: np.ndarray, folder: Path) -> dict[str, Callable[[], Any]]:
    """One patch out of a preprocessed case on a warm disk cache, image and label."""
    nothing = AugmentationParameters(np.eye(3), None, (ChannelParameters(),))
    np.save(folder / "image.npy", image)
    np.save(folder / "label.npy", label)

    def ours() -> Any:
        maps = [np.load(folder / name, mmap_mode="r") for name in ("image.npy", "label.npy")]
        return apply(maps[0], maps[1], MIDDLE, ROI, nothing)

    item = {"image": torch.from_numpy(image), "label": torch.from_numpy(label[None])}
    crop = SpatialCropd(("image", "label"), roi_center=(100, 100, 100), roi_size=ROI)
    dataset = PersistentDataset([item], transform=Compose([lambda data: data, crop]), cache_dir=folder / "monai")
    dataset_item = Compose([crop])
    torch.save(item, folder / "case.pt")
    found: dict[str, Callable[[], Any]] = {
        "medseg": ours,
        # what PersistentDataset does with a cached case, then the random crop
        "MONAI PersistentDataset": lambda: dataset_item(torch.load(folder / "case.pt", weights_only=True)),
    }
    del dataset
    if importlib.util.find_spec("blosc2"):
        import blosc2

        settings = {"codec": blosc2.Codec.ZSTD, "clevel": 8}
        for name, array in (("image", image), ("label", label[None])):
            blocks = (1, 32, 32, 32)
            blosc2.asarray(array, chunks=(1, 128, 128, 128), blocks=blocks, urlpath=str(folder / f"{name}.b2nd"), mode="w",
                           cparams=settings)  # fmt: skip

        def blosc() -> Any:
            part = (slice(None), *(slice(36, 164) for _ in range(3)))
            return [
                blosc2.open(urlpath=str(folder / f"{name}.b2nd"), mode="r", dparams={"nthreads": 1})[part]
                for name in ("image", "label")
            ]

        found["blosc2 zstd-8 (nnU-Net)"] = blosc
    return found


def check_affine(image: np.ndarray, label: np.ndarray, monai: Callable[[], Any]) -> tuple[float, float]:
    """Largest difference of the image patches, and the share of equal labels; MONAI takes the nearest label."""
    ours, theirs = our_affine(image, label)(), monai()
    inner = (slice(2, -2),) * 3  # MONAI fills what lies outside in another way
    equal = float((ours[1] == np.asarray(theirs["label"])[0])[inner].mean())
    return float(np.abs(ours[0] - np.asarray(theirs["image"]))[0][inner].max()), equal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    image, label = scene()
    tensors = torch.from_numpy(image), torch.from_numpy(label[None].astype(np.int16))
    middle = tuple(slice(36, 164) for _ in range(3))
    patches = tuple(tensor[(slice(None), *middle)].contiguous() for tensor in tensors)
    peer = importlib.util.find_spec("batchgeneratorsv2") is not None

    affine = {"medseg": our_affine(image, label), "MONAI RandAffined": monai_affine(*tensors)}
    recipe = {"medseg": many(our_recipe(image, label), 10), "MONAI": many(monai_recipe(*patches), 10)}
    if peer:
        affine["batchgeneratorsv2 SpatialTransform"] = peer_affine(*tensors)
        recipe["batchgeneratorsv2, nnU-Net's default"] = many(peer_recipe(*tensors), 10)
    difference, equal = check_affine(image, label, affine["MONAI RandAffined"])
    if difference > 1e-3 or equal < 0.98:
        raise SystemExit(f"images differ by {difference}, {equal:.2%} of the labels are equal: nothing is timed")
    facts: dict[str, Any] = {
        "scene": f"case {CASE}, patch {ROI}, 14 labels, one thread",
        "largest_difference_of_affine_images": difference,
        "equal_labels": equal,
    }
    with tempfile.TemporaryDirectory() as folder:
        fetch = fetches(image, label, Path(folder))
        for name, contenders in (("affine", affine), ("recipe", recipe), ("fetch", fetch)):
            times = interleave(contenders, rounds=arguments.rounds if name != "recipe" else 5)
            faster = {other: ratio(times, other, "medseg") for other in contenders if other != "medseg"}
            facts[name] = {"times": times, "medseg_times_faster_than": faster}
    save("augmentation", facts)


if __name__ == "__main__":
    main()
