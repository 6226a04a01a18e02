"""What travels with adapted and pretrained weights: where they begin, and the cases that they have seen already."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg.config import read_json
from medseg.errors import BundleError, ConfigError
from medseg.io.behind import content_digest, files_behind
from medseg.io.datalist import Case
from medseg.layout import Layout
from medseg.planning.folds import list_cases


def adapted_start(folder: Path) -> str | None:
    """The weights that the trainings of an adapted bundle begin with; None for a bundle that was not adapted."""
    start = Layout(folder).start
    return str(start.resolve()) if start.is_file() else None


def image_digest(case: Case) -> str:
    """SHA-256 over the contents of a case's images: the same case under another name is the same."""
    digests = [content_digest(file) for volume in case.images for file in files_behind(volume)]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def case_list(cases: Iterable[Case]) -> dict[str, str]:
    """Case name -> hash of its images, to be written into `Layout.pretraining`."""
    return {case.name: image_digest(case) for case in cases}


def list_hash(cases: Mapping[str, str]) -> str:
    """One hash of a case list, whatever its order and names."""
    return hashlib.sha256(json.dumps(sorted(cases.values())).encode()).hexdigest()


def read_pretraining(layout: Layout) -> dict[str, Any] | None:
    """What the weights were pretrained with; None for weights that were not.

    Raises:
        BundleError: the record is broken, or its list is not the one that was hashed.
    """
    path = layout.pretraining
    if not path.is_file():
        return None
    try:
        facts = read_json(path)
        cases = {str(name): str(digest) for name, digest in facts["cases"].items()}
        told = str(facts["cases_sha256"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"{path}: is no record of a pretraining ({error}); copy the bundle again") from error
    if list_hash(cases) != told:
        raise BundleError(f"{path}: its list of cases was changed since; take the record that the pretraining wrote")
    return dict(facts)


def seen_in_pretraining(facts: Mapping[str, Any] | None, cases: Sequence[Case]) -> list[str]:
    """Names of cases whose images the pretraining has seen."""
    if facts is None:
        return []
    known = set(facts["cases"].values())
    return [case.name for case in cases if image_digest(case) in known]


def refuse_pretraining_cases(folder: Path, fold: int) -> None:
    """Refuse to validate on cases that the weights were pretrained on.

    Raises:
        ConfigError: naming them.
    """
    layout = Layout(folder)
    facts = read_pretraining(layout)
    if facts is None or not layout.train.is_file():
        return
    config = read_json(layout.train)
    if "Fusion" in str(config.get("train", {}).get("dataset", {}).get("_target_")):
        return  # the pretraining itself
    gaps = str(config.get("missing_channels", "error"))
    cases = list_cases("val", config.get("data"), str(config["dataset_dir"]), folder, fold, missing_channels=gaps)
    seen = seen_in_pretraining(facts, cases)
    if seen:
        raise ConfigError(
            f"{folder}: {len(seen)} validation cases of fold {fold} were in the pretraining's list ({', '.join(seen[:3])}), so "
            "that its Dice would be of cases that the network has seen; train a fold without them, or pretrain without them"
        )
