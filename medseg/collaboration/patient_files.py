"""Which files a site has of which patient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from medseg.datasets import open_dataset
from medseg.errors import DataError
from medseg.io.datalist import Case
from medseg.io.layouts import LABEL_WORDS
from medseg.io.volume import case_name, is_volume_file


def find_patients(folder: Path, channels: Sequence[str], *, labels: bool = False) -> dict[str, Case]:
    """name -> files of the patients in a folder.

    One folder per patient with a file for each channel (`CT.nii.gz`, `CT_image.nii.gz`, `x_CT.nii.gz`) and, with `labels`,
    `CT_mask.nii.gz` or `label.nii.gz`; or any data set of `medseg.datasets` whose channels have these names.

    Raises:
        DataError: no such folder, or nobody has any of the channels.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; correct data_folder in site.json")
    patients = {one.name: one for one in sorted(folder.iterdir()) if one.is_dir() and not one.name.startswith(".")}
    found = {name: _in_folder(name, path, channels, labels) for name, path in patients.items()}
    cases = {name: case for name, case in found.items() if case is not None}
    if cases:
        return cases
    dataset = open_dataset(folder)
    numbers = {name.lower(): number for number, name in dataset.channels.items()}
    unknown = [name for name in channels if name.lower() not in numbers]
    if unknown:
        raise DataError(
            f"{folder}: no patient has {unknown[0]!r}; its channels are {', '.join(dataset.channels.values())}"
        )
    wanted = [numbers[name.lower()] for name in channels]
    return {
        case.name: Case(case.name, tuple(case.images[n] for n in wanted), case.label if labels else None, case.subject)
        for case in dataset.cases
    }


def patient_names(folder: Path) -> list[str]:
    """Names of all patients in a folder, whatever images they have: of their folders, else of a data set's cases.

    Raises:
        DataError: no such folder, or nobody in it.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; correct data_folder in site.json")
    patients = [one for one in sorted(folder.iterdir()) if one.is_dir() and not one.name.startswith(".")]
    names = [one.name for one in patients if any(is_volume_file(path) for path in one.iterdir())]
    is_dataset = any((folder / word).exists() for word in ("dataset.json", "images", "imagesTr"))
    return [case.name for case in open_dataset(folder).cases] if is_dataset or not names else names


def _in_folder(name: str, folder: Path, channels: Sequence[str], labels: bool) -> Case | None:
    files = {path: case_name(path).lower() for path in sorted(folder.iterdir()) if is_volume_file(path)}
    images, missing = [], []
    for number, channel in enumerate(channels):
        word = channel.lower()
        hit = next(
            (p for p, stem in files.items() if stem in (word, f"{word}_image") or stem.endswith(f"_{word}")), None
        )
        if hit is None:
            missing.append(number)
        else:
            images.append(hit)
    if not images:
        return None
    label = _label_of(channels[0].lower(), files) if labels else None
    return Case(name, tuple(images), label, missing=tuple(missing))


def _label_of(channel: str, files: Mapping[Path, str]) -> Path | None:
    """A channel's own label map, else the patient's; never one that is named after another channel's image."""
    stems = {stem.removesuffix("_image") for stem in files.values()}
    ends = [f"{channel}_{word}" for word in LABEL_WORDS] + list(LABEL_WORDS)
    for end in ends:
        for path, stem in files.items():
            owner = stem.removesuffix(f"_{end.rpartition('_')[2]}")
            if (stem == end or stem.endswith(f"_{end}")) and (owner in (channel, stem) or owner not in stems):
                return path
    return None
