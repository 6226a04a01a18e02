"""Names that MLflow accepts, made in one place."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection

from medseg.io.file_names import same_file

LONGEST = 160  # letters; MLflow takes 250 in all
_FORBIDDEN = re.compile(r"[^\w\-. ]+")
_ENDS_AS_OURS = re.compile(r"_[0-9a-f]{6}$")


def metric_name(metric: str, label: str | None = None, *, among: Collection[str] = ()) -> str:
    """`val_dice` and "left kidney" give "val_dice/left kidney": one name per label, whatever signs it has.

    Args:
        metric: such as `val_dice`.
        label: a label's or a region's name.
        among: the names of all labels of the task: "Tumour" beside "tumour" gets digits as well, since tracking stores on
            other databases and disks take the two for one.

    MLflow takes letters, digits, `_`, `-`, `.` and spaces. A label with anything else keeps what is left of it, and six
    digits of its hash, so that "T1+" and "T1" are two metrics.

    Example:
        >>> metric_name("val_dice", "liver (left)")
        'val_dice/liver_left_9bbe7c'
    """
    cleaned = _FORBIDDEN.sub("_", metric).replace(" ", "_").strip("_")
    return cleaned if label is None else f"{cleaned}/{_one_label(label, among)}"


def _one_label(label: str, among: Collection[str]) -> str:
    alike = any(other != label and same_file(other) == same_file(label) for other in among)
    plain = label == " ".join(label.split()) and label.strip(".") and not _FORBIDDEN.search(label)
    if plain and not alike and not _ENDS_AS_OURS.search(label) and len(label) <= LONGEST:
        return label
    kept = re.sub("_+", "_", _FORBIDDEN.sub("_", label).replace(" ", "_")).strip("_.")[:LONGEST]
    return f"{kept or 'label'}_{hashlib.sha256(label.encode('utf-8', 'surrogatepass')).hexdigest()[:6]}"
