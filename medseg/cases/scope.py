"""Does a case look like what the model was made with? Compared by name: modality, spacing, field of view, intensities.

Another modality is refused, unless a user insists. Of the rest a sentence says what was found and what the training data had:
in the record and the picture of the case, and once for a whole folder on the screen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.io import Volume
from medseg.io.geometry import orientation_of

# A spacing this many times outside the training data's range is named: scanners and protocols vary by less.
SPACING_FACTOR = 1.5
# Fields of view vary with cropping; a third of the median, or three times the largest, is another kind of scan.
EXTENT_FACTOR = 3.0
# Fewer voxels than this share inside the training labels' intensity range: no such tissue is in the image.
INTENSITY_SHARE = 1e-3
SAMPLES = 100_000
# What DICOM calls the modality, and what dataset descriptions write for it.
MODALITIES = {
    "CT": ("ct", "computed tomography"),
    "MR": ("mr", "mri", "t1", "t2", "t1w", "t2w", "t1gd", "t1ce", "flair", "dwi", "adc", "swi", "magnetic resonance"),
    "PT": ("pet", "pt", "suv"),
    "US": ("us", "ultrasound"),
}
# What the sentences begin with.
KINDS = ("channel", "modality", "spacing", "field of view", "intensities")
STAMP = "OUT OF SCOPE"
_RAS = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}


@dataclass(frozen=True)
class Scope:
    """What a model was made with.

    Args:
        channels: input channel -> modality, in the dataset's own words.
        fingerprint: `Fingerprint.to_dict()` of the training data; empty where nothing is known.
        per_image: channels whose intensities are scaled image by image (z-score), so that their numbers mean nothing.
    """

    channels: Mapping[int, str]
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    per_image: frozenset[int] = frozenset()

    def refusal(self, volume: Volume) -> str:
        """Why the case is no input of this model at all, or nothing: its file tells another modality."""
        found = self._modality(volume)
        return f"{found[0]}; to predict it anyway: --anyway" if found else ""

    def warnings(self, volume: Volume, *, missing: Sequence[int] = ()) -> list[str]:
        """One sentence per property of the case that lies outside, and per channel that it lacks; without names or paths.

        Args:
            volume: the image.
            missing: channels that the case does not have; their values are made up.
        """
        lacks = [
            f"channel {channel} ({self.channels.get(channel, '?')}) is missing; it is 0 here" for channel in missing
        ]
        found = [
            *self._modality(volume),
            *self._spacing(volume),
            *self._extent(volume),
            *self._intensity(volume, missing),
        ]
        return [*lacks, *found]

    def _modality(self, volume: Volume) -> list[str]:
        told = volume.header.modality
        wanted = {modality_of(name) for name in self.channels.values()} - {""}
        if not told or not wanted or told in wanted:
            return []
        return [f"modality {told}; the model was made for {', '.join(sorted(wanted))}"]

    def _spacing(self, volume: Volume) -> list[str]:
        low, high = self.fingerprint.get("smallest_spacing"), self.fingerprint.get("largest_spacing")
        if not low or not high:
            return []
        spacing = along_ras(volume, volume.spacing)
        outside = any(
            value < least / SPACING_FACTOR or value > most * SPACING_FACTOR
            for value, least, most in zip(spacing, low, high, strict=True)
        )
        return [f"spacing {_text(spacing)} mm; the training data had {_span(low, high)} mm"] if outside else []

    def _extent(self, volume: Volume) -> list[str]:
        keys = ("median_shape", "median_spacing", "largest_shape", "largest_spacing")
        if not all(self.fingerprint.get(key) for key in keys):
            return []
        extent = [
            n * mm for n, mm in zip(along_ras(volume, volume.grid), along_ras(volume, volume.spacing), strict=True)
        ]
        usual, spacing, largest, widest = (np.asarray(self.fingerprint[key], dtype=np.float64) for key in keys)
        typical, most = usual * spacing, largest * widest
        outside = any(
            mm < middle / EXTENT_FACTOR or mm > end * EXTENT_FACTOR
            for mm, middle, end in zip(extent, typical, most, strict=True)
        )
        if not outside:
            return []
        return [f"field of view {_text(extent, 0)} mm; the training data had {_text(typical.tolist(), 0)} mm (median)"]

    def _intensity(self, volume: Volume, missing: Sequence[int] = ()) -> list[str]:
        found = []
        for channel, facts in enumerate(self.fingerprint.get("intensity") or []):
            if channel >= len(volume.array):
                break
            if channel in self.per_image or modality_of(self.channels.get(channel, "")) in ("MR", "US"):
                continue  # their units differ from scanner to scanner
            if channel in missing:
                continue
            low, high = float(facts["p0_5"]), float(facts["p99_5"])
            values = sample(volume.array[channel])
            share = float(((values >= low) & (values <= high)).mean())
            if share < INTENSITY_SHARE:
                name = f"intensities of channel {channel}" if len(volume.array) > 1 else "intensities"
                ends = np.percentile(values, [0.5, 99.5])
                found.append(
                    f"{name} {_span([float(ends[0])], [float(ends[1])])}; the training labels had {_span([low], [high])}"
                )
        return found


def stamp_of(sentences: Sequence[str]) -> str:
    """What is written across the picture of a case that is outside, with the first reason."""
    return f"{STAMP}: {sentences[0]}" if sentences else ""


def sum_up(cases: Mapping[str, Sequence[str]]) -> str:
    """One line for a whole folder: how many cases are outside, and of what.

    Args:
        cases: name -> sentences of `Scope.warnings`, for every case.

    Example:
        >>> sum_up({"a": ["spacing 1 x 1 x 8 mm; ..."], "b": ["spacing 1 x 1 x 9 mm; ...", "modality CT; ..."], "c": []})
        '2 of 3 cases are outside of what this model was made for: spacing (2), modality (1); each record says more'
    """
    outside = {name: found for name, found in cases.items() if found}
    if not outside:
        return ""
    if len(cases) == 1:
        (found,) = outside.values()
        return f"outside of what this model was made for: {'; '.join(found)}"
    kinds: dict[str, int] = {}
    for found in outside.values():
        for kind in {next(kind for kind in KINDS if sentence.startswith(kind)) for sentence in found}:
            kinds[kind] = kinds.get(kind, 0) + 1
    listed = ", ".join(f"{kind} ({kinds[kind]})" for kind in sorted(kinds, key=lambda kind: (-kinds[kind], kind)))
    return f"{len(outside)} of {len(cases)} cases are outside of what this model was made for: {listed}; each record says more"


def modality_of(name: str) -> str:
    """DICOM's word for a channel's name, or "" when it says none.

    Example:
        >>> modality_of("MRI"), modality_of("T1w post-contrast"), modality_of("CT"), modality_of("image")
        ('MR', 'MR', 'CT', '')
    """
    words = "".join(letter if letter.isalnum() else " " for letter in name.lower()).split()
    for modality, known in MODALITIES.items():
        if any(word in known for word in words) or any(" " in phrase and phrase in name.lower() for phrase in known):
            return modality
    return ""


def along_ras(volume: Volume, values: Sequence[float]) -> list[float]:
    """Values per array axis in the order right, anterior, superior."""
    order = np.argsort([_RAS[code] for code in orientation_of(volume.affine)])
    return [float(values[axis]) for axis in order]


def sample(array_XYZ: NDArray[np.float32]) -> NDArray[np.float32]:
    """At most about `SAMPLES` voxels, evenly spread, always the same ones."""
    step = max(1, round((array_XYZ.size / SAMPLES) ** (1 / 3)))
    return array_XYZ[::step, ::step, ::step].reshape(-1)


def _text(values: Sequence[float], digits: int = 2) -> str:
    return " x ".join(f"{value:.{digits}f}".rstrip("0").rstrip(".") if digits else f"{value:.0f}" for value in values)


def _span(low: Sequence[float], high: Sequence[float]) -> str:
    return " x ".join(f"{a:.4g}" if a == b else f"{a:.4g} to {b:.4g}" for a, b in zip(low, high, strict=True))
