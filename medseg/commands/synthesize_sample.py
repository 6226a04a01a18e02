"""`medseg synthesize sample GEN`: images for label maps by a trained generator."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medseg.bars import progress_bar
from medseg.bundle.catalogue import find_bundle
from medseg.bundle.load import Trust, open_trusted
from medseg.bundle.opening.parser import SafeConfig, checked_config
from medseg.bundle.weights import load_into, read_state_dict
from medseg.config import read_json
from medseg.datasets import Dataset, load_case
from medseg.devices import choose_device
from medseg.errors import BundleError, ConfigError, LabelError
from medseg.io.datalist import Case
from medseg.io.geometry import spacing_of
from medseg.layout import Layout
from medseg.networks.diffusion.edm import Denoiser, label_channels
from medseg.synthesis.marked_folder import SyntheticFolder
from medseg.synthesis.pairs import bent_label
from medseg.synthesis.sampler import Steps, guided, noise_of, sample
from medseg.transforms.classes import class_values, classes_of
from medseg.transforms.preprocessing import Preprocessing
from medseg.types import Affine, FilePath

from .synthesize import real_cases

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sampling:
    """How a generator samples: noise levels, guidance, device, and whether its bundle may run code."""

    steps: int = 36
    guidance: float = 1.0
    device: str = "auto"
    trust: Trust = False


class Generator:
    """A trained generator, opened.

    Args:
        bundle: its folder or name.
        device: where it runs.
        trust: see `medseg.bundle.load.load_bundle`.

    Raises:
        BundleError: no generator, or one without weights.
        UntrustedBundleError: its file names what is not allowed.
    """

    def __init__(self, bundle: FilePath, device: str = "auto", trust: Trust = False) -> None:
        layout = Layout(find_bundle(str(bundle)))
        if not layout.train.is_file() or "DiffusionModule" not in str(_module_of(layout)):
            raise BundleError(
                f"{bundle}: is no generator; plan one with medseg synthesize plan, or take warp, paint or gin"
            )
        opened = open_trusted(layout.folder, layout.train, trust)
        config: Any = (
            opened if isinstance(opened, SafeConfig) else checked_config(read_json(layout.train), layout.train)
        )
        if not layout.weights.is_file():
            raise BundleError(f"{bundle}: is not trained yet; medseg fit {bundle}")
        self.network: Denoiser = config.get("network_def")
        self.preprocessing: Preprocessing = config.get("preprocessing_def")
        self.values = class_values({int(value): name for value, name in config.get("labels").items()})
        self.size = tuple(int(side) for side in config.get("roi_size"))
        self.device = choose_device(device)
        load_into(self.network, read_state_dict(layout.weights), layout.weights)
        self.network.eval().to(self.device)
        self.name = layout.folder.resolve().name

    def label_of(self, case: Case, dataset: Dataset, random: np.random.Generator) -> tuple[Tensor, Affine]:
        """A bent label map (X, Y, Z) of class numbers on the generator's grid, and its affine.

        Raises:
            LabelError: values that the generator never saw.
        """
        image, label = load_case(case, dataset)
        unseen = sorted({int(value) for value in np.unique(label.array)} - {0, *self.values, dataset.ignore_label})
        if unseen:
            raise LabelError(
                f"{case.label}: holds the label values {', '.join(map(str, unseen))}, which {self.name} never saw; it knows "
                f"{', '.join(map(str, self.values))}. Leave the case out with --cases, or train a generator with those labels"
            )
        prepared = self.preprocessing.apply(image.array, image.affine)
        found = np.asarray(self.preprocessing.apply_label(label.array, image.affine, grid=prepared.grid))
        wanted, source = spacing_of(prepared.affine), spacing_of(image.affine)
        if not np.allclose(wanted, source, rtol=1e-3):
            log.info(
                "case %s: label map resampled from %s to the generator's %s mm", case.name, _mm(source), _mm(wanted)
            )
        classes = classes_of(bent_label(found, wanted, random), self.values, ignore_label=dataset.ignore_label)
        offset = [(have - side) // 2 for have, side in zip(classes.shape, self.size, strict=True)]
        affine = prepared.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ np.asarray(offset, dtype=np.float64)
        return _of_size(torch.from_numpy(np.ascontiguousarray(classes)).long(), offset, self.size), affine

    @torch.inference_mode()
    def image_for(self, label: Tensor, noise: Tensor, steps: Steps, guidance: float) -> Tensor:
        """(Ci, X, Y, Z) for class numbers (X, Y, Z), in units of the normalised image."""
        channels = label_channels(label[None].to(self.device), len(self.values))
        nothing = torch.zeros_like(channels)

        def denoise(x: Tensor, s: float, told: Tensor) -> Tensor:
            return self.network(x, torch.full((len(x),), s, device=x.device), told)

        wanted = guided(lambda x, s: denoise(x, s, channels), lambda x, s: denoise(x, s, nothing), guidance)
        return sample(wanted, noise.to(self.device), steps)[0].float().cpu()


def sample_generator(
    bundle: FilePath,
    data: FilePath,
    output: FilePath,
    *,
    how: Sampling,
    count: int,
    seed: int = 0,
    cases: Sequence[str] = (),
) -> list[str]:
    """Write synthetic pairs for bent label maps of real cases, one at a time; returns their names.

    Args:
        bundle: a trained generator.
        data: a labelled data set.
        output: a new folder.
        how: steps, guidance, device.
        count: pairs; each takes the next real case's label map.
        seed: of the whole set; sample n is the same whatever the count is.
        cases: names of the real cases to take; all by default.

    Raises:
        ConfigError: count below 1, steps below 2. BundleError, DataError, LabelError: see `Generator`.
        SamplerError: NaN, named by step and sigma.
    """
    if count < 1:
        raise ConfigError(f"--count is {count}; expected at least 1")
    steps = Steps(how.steps)
    dataset, real = real_cases(data, cases)
    generator = Generator(bundle, how.device, how.trust)
    facts = {"seed": seed, "generator": generator.name, "steps": how.steps, "guidance": how.guidance}
    made = SyntheticFolder(Path(output), "diffit", facts)
    made.begin(dataset)
    values = np.asarray(generator.values)
    with progress_bar("sampling", count, unit="image") as advance:
        for number in range(count):
            case = real[number % len(real)]
            random = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, number])))
            label, affine = generator.label_of(case, dataset, random)
            noise = noise_of(seed, [number], (generator.network.body.shape.image_channels, *generator.size))
            image = generator.image_for(label, noise, steps, how.guidance)
            written = values[label.clamp_min(0).numpy()]
            made.add(number, image.numpy(), written, affine, {"source": case.name})
            advance(number + 1)
    return list(made.cases)


def _of_size(label: Tensor, offset: Sequence[int], size: Sequence[int]) -> Tensor:
    """Cut or filled with background: voxel 0 of the result is voxel `offset` of the label map."""
    result = torch.zeros(tuple(size), dtype=label.dtype)
    reads, writes = [], []
    for first, side, have in zip(offset, size, label.shape, strict=True):
        low, high = max(first, 0), min(first + side, have)
        reads.append(slice(low, high))
        writes.append(slice(low - first, high - first))
    result[tuple(writes)] = label[tuple(reads)]
    return result


def _module_of(layout: Layout) -> Any:
    train = read_json(layout.train).get("train")
    module = train.get("module") if isinstance(train, dict) else None
    return module.get("_target_") if isinstance(module, dict) else None


def _mm(spacing: Sequence[float]) -> str:
    return " x ".join(f"{side:.3g}" for side in spacing)
