"""One folder per patient, as hospitals export them:

    PATIENT/image.nii.gz  PATIENT/label.nii.gz  [PATIENT/more channels]  [dataset.json]  [splits_final.json]

The label map is the file named label, seg, mask, ... or ending in _seg, _label, ...; the others are the channels, in the
order of the channels' names in dataset.json or of the first patient's files, and in alphabetical order where the names of a
patient's files say none of them. A folder without a label map is a test case. An image may be a DICOM series: the slices lie in
the patient's folder, or in folders of their own in it; then the only volume file is the label map, whatever its name is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from medseg.errors import DataError
from medseg.io.atomic import is_temporary
from medseg.io.channels import distinct_parts, order_by_name
from medseg.io.datalist import Case
from medseg.io.declared import channel_names
from medseg.io.formats.dicom import is_dicom_file
from medseg.io.layouts import is_label_folder, maps_beside_series, without_label_maps
from medseg.io.volume import is_volume_file

from .dataset import Dataset
from .described import described_dataset
from .description import read_object


def matches(folder: Path) -> bool:
    """Whether a sub-folder holds an image and a label map, and none of them is a folder of labels."""
    places = _places(folder)
    return any(_labels(place) for place in places) and not any(is_label_folder(place) for place in places)


def load(folder: Path) -> Dataset:
    """Find the cases. Raises DataError naming the patient's folder."""
    path = folder / "dataset.json"
    description = read_object(path) if path.is_file() else {}
    found = [_case(place) for place in _places(folder) if _volumes(place) or _series(place)]
    channels = channel_names(path, description)
    if "channel_names" not in description and "channels" not in description and len(found[0].images) > 1:
        channels = dict(enumerate(distinct_parts(found[0].images)))
    found = [_ordered(case, channels) for case in found]
    counts = {len(case.images) for case in found}
    if len(counts) > 1:
        few = min(found, key=lambda case: len(case.images))
        raise DataError(
            f"{few.images[0].parent}: holds {len(few.images)} images, other patients {max(counts)}; add the missing ones, or "
            "list the cases in cases.csv."
        )
    cases = [case for case in found if case.label is not None]
    test_cases = [case for case in found if case.label is None]
    name = folder.resolve().name
    return described_dataset(folder, description, cases, test_cases, name=name, channels=channels, collect=True)


def _ordered(case: Case, channels: Mapping[int, str]) -> Case:
    """The case with its channels in the order of their names, where its files tell."""
    if len(case.images) != len(channels) or len(channels) == 1:
        return case
    order = order_by_name(case.images, channels)
    return replace(case, images=tuple(order.values())) if order else case


def _places(folder: Path) -> list[Path]:
    return sorted(one for one in folder.iterdir() if one.is_dir() and not one.name.startswith("."))


def _series(place: Path) -> list[Path]:
    """The DICOM series of a patient: the folder itself, or those in it."""
    inside = [one for one in sorted(place.iterdir()) if not one.name.startswith(".")]
    if any(one.is_file() and not is_volume_file(one) and is_dicom_file(one) for one in inside):
        return [place]
    return [
        one for one in inside if one.is_dir() and any(is_dicom_file(file) for file in one.iterdir() if file.is_file())
    ]


def _volumes(place: Path) -> list[Path]:
    return [path for path in sorted(place.iterdir()) if is_volume_file(path) and not is_temporary(path)]


def _labels(place: Path) -> list[Path]:
    files = _volumes(place)
    if files and _series(place):
        return maps_beside_series(place, files)
    images = without_label_maps(files)
    return [path for path in files if path not in images]


def _case(place: Path) -> Case:
    maps = _labels(place)
    if len(maps) > 1:
        raise DataError(f"{place}: {maps[0].name} and {maps[1].name} are both named as label maps; keep one.")
    images = (*_series(place), *(path for path in _volumes(place) if path not in maps))
    return Case(place.name, images, maps[0] if maps else None, place.name)
