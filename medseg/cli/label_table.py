"""Names of label values, regions and the ignored value, from what `--labels` says or from what lies beside the files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from medseg.config import read_json
from medseg.errors import ConfigError
from medseg.io.volume import case_name
from medseg.layout import Layout


class LabelTable(NamedTuple):
    """What `--labels` names: label value -> name, regions and the ignored value; `labels` None takes the values found."""

    labels: dict[int, str] | None
    regions: dict[str, tuple[int, ...]]
    ignore: int | None


def known_names(prediction: Path, reference: Path) -> dict[int, str]:
    """Label value -> name as the records of `medseg predict` beside the predictions tell them, else a dataset.json there."""
    folder = prediction.parent if prediction.is_file() else prediction
    records = (
        [prediction.with_name(f"{case_name(prediction)}.json")]
        if prediction.is_file()
        else sorted(folder.glob("*.json"))
    )
    found: dict[int, str] = {}
    for path in records:
        try:
            rows = read_json(path).get("labels")
            if isinstance(rows, list):
                found |= {int(row["label"]): str(row["name"]) for row in rows}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # another program's file
    if found:
        return found if len(set(found.values())) == len(found) else {}
    home = reference if reference.is_dir() else reference.parent
    for place in (home, home.parent):
        if (place / "dataset.json").is_file():
            return {value: name for value, name in (read_label_table(str(place)).labels or {}).items() if value}
    return {}


def read_labels(text: str) -> dict[int, str]:
    """Label value -> name; see `read_label_table`."""
    return read_label_table(text).labels or {}


def read_label_table(text: str) -> LabelTable:
    """Labels, regions and ignored value of a bundle (folder, or name of a shipped one), a plan.json, a dataset.json, or
    `1=anterior,2=posterior`.

    Raises:
        ConfigError: the text or file is none of these.
        DataError: labels or regions that contradict each other.
    """
    from medseg.bundle.catalogue import known_bundles

    path = Path(text)
    if not path.exists() and text in (known := known_bundles()):
        path = known[text]
    if path.is_dir():
        plan = Layout(path).plan
        path = plan if plan.exists() else path / "dataset.json"
    try:
        if not path.exists() and "=" in text:
            named = {int(value): name for value, name in (word.split("=", 1) for word in words_of(text))}
            return LabelTable(named, {}, None)
        return _label_table(path, read_json(path))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"--labels {text}: expected a bundle, a plan.json or dataset.json with labels, "
            f"or 1=name,2=name ({type(error).__name__}: {error})"
        ) from error


def _label_table(path: Path, content: dict[str, Any]) -> LabelTable:
    """Of a plan, whose regions and ignored value stand beside the labels, or of a dataset.json in any of its layouts."""
    from medseg.datasets.description import label_names
    from medseg.datasets.regions import region_table

    if isinstance(content.get("regions"), list):
        labels = {int(value): str(name) for value, name in content["labels"].items()}
        regions = {str(region["name"]): tuple(int(v) for v in region["labels"]) for region in content["regions"]}
        return LabelTable(labels, regions, content.get("ignore_label"))
    labels, ignore = label_names(path, content)
    return LabelTable(labels, region_table(path, content), ignore)


def words_of(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def parse_region(text: str) -> tuple[str, tuple[int, ...]]:
    """Name and label values of `NAME=1,2`. Raises ConfigError."""
    try:
        name, values = text.split("=", 1)
        return name, tuple(int(word) for word in words_of(values))
    except ValueError as error:
        raise ConfigError(f"--region {text}: expected NAME=1,2") from error
