"""Compare label maps of any tools on the same references, without training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medseg.assurance import Comparison, Rules, compare
from medseg.assurance.comparison_section import comparison_section
from medseg.errors import ConfigError
from medseg.evaluation import Evaluation, ScoreSettings, evaluate_folders
from medseg.evaluation.folders import pair_cases, with_labels
from medseg.evaluation.report.page import write_report
from medseg.evaluation.report.sections import scores_section
from medseg.io.atomic import write_json
from medseg.io.file_names import distinct_file_names
from medseg.types import FilePath

GROUP_METRICS = {"overlap": ("dice",), "surface": ("nsd", "hd95_mm")}


@dataclass(frozen=True)
class Labels:
    """What is scored: value -> name (None: the values found), names of values, regions, and the cases."""

    labels: Mapping[int, str] | None = None
    names: Mapping[int, str] | None = None
    regions: Mapping[str, Sequence[int]] | None = None
    cases: Literal["all", "predicted", "common"] | Sequence[str] = "all"


@dataclass(frozen=True)
class Compared:
    """The scores of each system, and what may be said of them."""

    evaluations: Mapping[str, Evaluation]
    comparison: Comparison

    def write(self, folder: FilePath) -> None:
        """Write comparison.json, a JSON and a CSV of scores per system, and report.html into a folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        files = distinct_file_names(dict(enumerate(self.evaluations, start=1)))
        for number, evaluation in enumerate(self.evaluations.values(), start=1):
            evaluation.to_json(folder / f"{files[number]}.evaluation.json")
            evaluation.to_csv(folder / f"{files[number]}.csv")
        write_json(folder / "comparison.json", self.comparison.as_dict())
        sections = [comparison_section(self.comparison)]
        sections += [scores_section(found, title=f"Scores of {name}") for name, found in self.evaluations.items()]
        cases = len(next(iter(self.evaluations.values())).cases)
        write_report(
            folder / "report.html", "Comparison", sections, subtitle=f"{len(self.evaluations)} systems, {cases} cases"
        )


def compare_predictions(
    predictions: Mapping[str, FilePath],
    reference: FilePath,
    *,
    scored: Labels | None = None,
    settings: ScoreSettings | None = None,
    rules: Rules | None = None,
    workers: int = 1,
) -> Compared:
    """Score folders of label maps against the same references and compare them pair by pair.

    Args:
        predictions: name -> folder of label maps of one system.
        reference: folder of label maps, or a dataset.
        scored: labels, regions and cases; by default the labels found, all cases. `common` are those that every system has.
        settings: what is computed; the mean Dice over labels is the primary comparison.
        rules: when something may be said.
        workers: cases scored at the same time.

    Raises:
        ConfigError: fewer than two systems.
        DataError: systems that were scored on different cases, grids or labels, named.
    """
    scored = scored or Labels()
    settings = settings or ScoreSettings(groups=("overlap", "surface"))
    if len(predictions) < 2:
        raise ConfigError(
            f"compare: found {len(predictions)} prediction folder, expected two or more: repeat --prediction"
        )
    cases = _common(predictions, reference) if scored.cases == "common" else scored.cases
    evaluations = {
        name: evaluate_folders(
            folder, reference, labels=scored.labels, names=scored.names, regions=scored.regions, cases=cases,
            settings=settings, workers=workers,
        )
        for name, folder in predictions.items()
    }  # fmt: skip
    metrics = [metric for group in settings.groups for metric in GROUP_METRICS.get(group, ())]
    evaluations = _same_labels(evaluations)
    return Compared(evaluations, compare(evaluations, metrics=metrics, rules=rules))


def system_names(folders: Sequence[str]) -> dict[str, Path]:
    """`NAME=FOLDER` or a folder, whose own name is taken; names that occur twice are told apart by the folders above.

    Raises:
        ConfigError: one name given twice.
    """
    named: dict[str, Path] = {}
    for text in folders:
        given, found, rest = text.partition("=")
        explicit = bool(found) and not Path(text).exists()
        path = Path(rest if explicit else text)
        *_, parent, own = ("", *path.resolve().parts)
        name = given if explicit else own if own not in named else f"{parent}_{own}"
        if not name or name in named:
            raise ConfigError(
                f"compare: two predictions are called {name!r}; give them names: --prediction NAME={path}"
            )
        named[name] = path
    return named


def _common(predictions: Mapping[str, FilePath], reference: FilePath) -> list[str]:
    found = [{name for name, *_ in pair_cases(folder, reference, cases="common")[0]} for folder in predictions.values()]
    both = set.intersection(*found)
    if not both:
        raise ConfigError(f"compare: no case has a label map in all of {', '.join(predictions)}")
    return sorted(both)


def _same_labels(evaluations: Mapping[str, Evaluation]) -> dict[str, Evaluation]:
    """Where the labels are those found, one that a system never predicts and no reference holds is undefined for it."""
    regions: dict[str, tuple[int, ...]] = {}
    for evaluation in evaluations.values():
        regions |= evaluation.regions
    return {name: with_labels(evaluation, regions) for name, evaluation in evaluations.items()}
