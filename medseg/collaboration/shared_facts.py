"""What a site tells of its data so that one plan serves all, and how the plan is made of it. No image, no case name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medseg.datasets import Dataset
from medseg.errors import DataError
from medseg.io.datalist import Case
from medseg.planning.fingerprint import Fingerprint, measure
from medseg.planning.folds import make_splits

# The whole of what leaves a site for planning; `collaboration.json` of the bundle repeats it.
SHARED = (
    "number of cases, and how many of them train and validate",
    "medians and ranges of shape and spacing",
    "per label: cases that hold it, median volume, pieces",
    "per channel: mean, spread and range of labelled voxels",
    "names of channels, labels and regions",
    "orientations and odd headers, counted",
)
Message = dict[str, Any]


def describe(dataset: Dataset, folds: int, *, workers: int = 1) -> Message:
    """What a site sends: its fingerprint, sizes of its folds, and the words that all sites must agree on.

    Raises what `measure` and `make_splits` raise.
    """
    splits = folds_of(dataset, folds)
    return {
        "folds": [[len(split["train"]), len(split["val"])] for split in splits],
        "fingerprint": measure(dataset, workers=workers).to_dict(),
        "channels": {str(key): name for key, name in dataset.channels.items()},
        "labels": {str(key): name for key, name in dataset.labels.items()},
        "regions": {name: list(values) for name, values in dataset.regions.items()},
        "region_order": list(dataset.region_order),
        "ignore_label": dataset.ignore_label,
    }


def folds_of(dataset: Dataset, folds: int) -> list[dict[str, list[str]]]:
    """A site's own folds: its data set's, or made as `medseg plan` makes them."""
    labelled = [case for case in dataset.cases if case.label is not None]
    return dataset.splits or make_splits(labelled, folds)


def check_message(name: str, message: Any) -> None:
    """Refuse what is no fingerprint of a site. Raises DataError."""
    wanted = ("fingerprint", "folds", "channels", "labels", "regions", "region_order", "ignore_label")
    missing = [key for key in wanted if not isinstance(message, Mapping) or key not in message]
    if missing:
        raise DataError(
            f"site {name!r}: its fingerprint has no {missing[0]!r}; write it there with `medseg federate plan --describe`"
        )


def pool(messages: Mapping[str, Message]) -> tuple[Dataset, Fingerprint]:
    """One description and one fingerprint of all sites.

    Sizes are medians of the sites' medians, each counted as often as it has cases; means and spreads of intensities are
    weighted by cases; ranges and percentiles are the widest.

    Raises:
        DataError: two sites differ in channels, labels, regions or the ignored label; both are named.
    """
    for name, message in messages.items():
        check_message(name, message)
    names = list(messages)
    first = messages[names[0]]
    for other in names[1:]:
        for key in ("channels", "labels", "regions", "region_order", "ignore_label"):
            if messages[other][key] != first[key]:
                raise DataError(
                    f"sites {names[0]!r} and {other!r} differ in their {key}: {first[key]} and {messages[other][key]}; "
                    "make the dataset.json of both the same"
                )
    return _dataset(first), _fingerprint([message["fingerprint"] for message in messages.values()])


def _dataset(words: Message) -> Dataset:
    """A data set of no files: planning asks for its words only."""
    return Dataset(
        name="pooled",
        folder=Path(),
        cases=[Case("pooled", ())],
        test_cases=[],
        labels={int(key): name for key, name in words["labels"].items()},
        channels={int(key): name for key, name in words["channels"].items()},
        regions={name: tuple(values) for name, values in words["regions"].items()},
        region_order=tuple(words["region_order"]),
        ignore_label=words["ignore_label"],
    )


def _fingerprint(found: Sequence[Mapping[str, Any]]) -> Fingerprint:
    cases = [int(facts["cases"]) for facts in found]
    values = sorted({int(value) for facts in found for value in facts["label_cases"]})
    tables: dict[str, dict[int, Any]] = {"label_cases": {}, "label_volume_ml": {}, "label_pieces": {}}
    for value in values:
        holders = [facts for facts in found if str(value) in facts["label_cases"]]
        counts = [int(facts["label_cases"][str(value)]) for facts in holders]
        tables["label_cases"][value] = sum(counts)
        tables["label_volume_ml"][value] = _median([f["label_volume_ml"][str(value)] for f in holders], counts)
        pieces = [facts["label_pieces"][str(value)] for facts in holders]
        tables["label_pieces"][value] = {
            "median": _median([entry["median"] for entry in pieces], counts),
            "most": max(entry["most"] for entry in pieces),
        }
    return Fingerprint(
        cases=sum(cases),
        median_shape=_medians(found, "median_shape", cases),
        median_spacing=_medians(found, "median_spacing", cases),
        smallest_spacing=_extremes(found, "smallest_spacing", min),
        largest_spacing=_extremes(found, "largest_spacing", max),
        spacing_p10=_medians(found, "spacing_p10", cases),
        largest_shape=[int(value) for value in _extremes(found, "largest_shape", max)],
        intensity=_intensity([facts["intensity"] for facts in found], cases),
        orientations=dict(sum((Counter(facts["orientations"]) for facts in found), Counter())),
        geometry_faults=dict(sum((Counter(facts["geometry_faults"]) for facts in found), Counter())),
        **tables,
    )


def _median(values: Sequence[float], counts: Sequence[int]) -> float:
    return float(np.median(np.repeat(np.asarray(values, dtype=np.float64), counts)))


def _medians(found: Sequence[Mapping[str, Any]], key: str, cases: Sequence[int]) -> list[float]:
    return [_median(axis, cases) for axis in zip(*(facts[key] for facts in found), strict=True)]


def _extremes(found: Sequence[Mapping[str, Any]], key: str, which: Any) -> list[float]:
    return [which(axis) for axis in zip(*(facts[key] for facts in found), strict=True)]


def _intensity(sites: Sequence[Sequence[Mapping[str, float]]], cases: Sequence[int]) -> list[dict[str, float]]:
    """Per channel; the variance is that of the mixture, its parts weighted by cases."""
    weights = np.asarray(cases, dtype=np.float64) / sum(cases)
    pooled = []
    for channel in zip(*sites, strict=True):
        means, spreads = (np.array([facts[key] for facts in channel]) for key in ("mean", "std"))
        mean = float(weights @ means)
        facts = {"mean": mean, "std": float(np.sqrt(weights @ (spreads**2 + (means - mean) ** 2)))}
        facts |= {key: min(entry[key] for entry in channel) for key in ("p0_5", "minimum")}
        pooled.append(facts | {key: max(entry[key] for entry in channel) for key in ("p99_5", "maximum")})
    return pooled


def folds_of_sites(messages: Mapping[str, Message]) -> list[dict[str, list[str]]]:
    """splits.json of the whole: which site has how many training and validation cases, by fold; no case is named."""
    counts = {name: message["folds"] for name, message in messages.items()}
    folds = min(len(entry) for entry in counts.values())
    return [
        {
            "train": [f"{name} ({entry[fold][0]} cases)" for name, entry in counts.items()],
            "val": [f"{name} ({entry[fold][1]} validation cases)" for name, entry in counts.items()],
        }
        for fold in range(folds)
    ]
