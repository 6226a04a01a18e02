"""Names that MLflow accepts, made in one place."""

from __future__ import annotations

import hashlib
import re

LONGEST = 160  # letters; MLflow takes 250 in all
_FORBIDDEN = re.compile(r"[^\w\-. ]+")
_ENDS_AS_OURS = re.compile(r"_[0-9a-f]{6}$")


def metric_name(metric: str, label: str | None = None) -> str:
    """`val_dice` and "left kidney" give "val_dice/left kidney": one name per label, whatever signs it has.

    MLflow takes letters, digits, `_`, `-`, `.` and spaces. A label with anything else keeps what is left of it, and six
    digits of its hash, so that "T1+" and "T1" are two metrics.

    Example:
        >>> metric_name("val_dice", "liver (left)")
        'val_dice/liver_left_9bbe7c'
    """
    cleaned = _FORBIDDEN.sub("_", metric).replace(" ", "_").strip("_")
    return cleaned if label is None else f"{cleaned}/{_one_label(label)}"


def _one_label(label: str) -> str:
    plain = label == " ".join(label.split()) and label.strip(".") and not _FORBIDDEN.search(label)
    if plain and not _ENDS_AS_OURS.search(label) and len(label) <= LONGEST:
        return label
    kept = re.sub("_+", "_", _FORBIDDEN.sub("_", label).replace(" ", "_")).strip("_.")[:LONGEST]
    return f"{kept or 'label'}_{hashlib.sha256(label.encode('utf-8', 'surrogatepass')).hexdigest()[:6]}"
