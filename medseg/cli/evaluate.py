"""medseg evaluate: score label maps against references."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.config import read_json
from medseg.errors import ConfigError, printable
from medseg.heartbeat import Step, step
from medseg.io.volume import case_name

from .label_table import LabelTable, known_names, parse_region, read_label_table, words_of
from .label_table import read_labels as read_labels
from .main import EXIT_NOTHING_DONE, EXIT_OK, EXIT_SOME_FAILED, add_common_arguments

if TYPE_CHECKING:
    from medseg.evaluation import Evaluation
    from medseg.evaluation.report.sections import Scene


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--prediction", required=True, metavar="DIR", help="folder of predicted label maps, or one file"
    )
    parser.add_argument("--reference", required=True, metavar="DIR", help="folder of reference label maps, or one file")
    parser.add_argument(
        "--labels",
        metavar="SPEC",
        help="names of the label values, regions and the ignored value: a bundle, a plan.json, a dataset.json (also nnU-Net's), or "
        "1=anterior,2=posterior (default: the values found)",
    )
    parser.add_argument(
        "--region", action="append", default=[], metavar="NAME=1,2", help="also score a union of labels; repeatable"
    )
    parser.add_argument(
        "--cases",
        nargs="+",
        default=["all"],
        metavar="NAME",
        help="all: each reference needs a prediction (default); predicted: only the cases predicted; common: those that both "
        "sides have; or case names",
    )
    parser.add_argument("--metrics", default="overlap,surface,volume,lesion", metavar="LIST", help="groups to compute")
    parser.add_argument("--tolerance-mm", type=float, default=1.0, metavar="MM", help="of the surface Dice (default 1)")
    parser.add_argument("--ignore-label", type=int, metavar="N", help="leave out voxels with this reference value")
    parser.add_argument(
        "--missing",
        choices=("nan", "worst"),
        default="nan",
        help="distances of a label that one side lacks: undefined, with the reason (default), or the image's diagonal",
    )
    parser.add_argument("--allow-synthetic", action="store_true", help="score against references that no person drew")
    parser.add_argument("--images", metavar="DIR", help="folder of the images, to show below the worst cases' labels")
    parser.add_argument(
        "--output", metavar="DIR", help="write evaluation.json, evaluation.csv and report.html into this folder"
    )
    add_common_arguments(parser, "threads", "json", "quiet")


def run(arguments: argparse.Namespace) -> int:
    from medseg.evaluation import ScoreSettings, evaluate_folders
    from medseg.evaluation.folders import refuse_synthetic_references

    if arguments.images is not None and not Path(arguments.images).is_dir():
        raise ConfigError(f"--images {arguments.images}: no such folder; check the path")
    if not arguments.allow_synthetic:
        refuse_synthetic_references(Path(arguments.reference))
    table = read_label_table(arguments.labels) if arguments.labels else LabelTable(None, {}, None)
    settings = ScoreSettings(
        groups=tuple(words_of(arguments.metrics)),
        tolerance_mm=arguments.tolerance_mm,
        ignore_label=table.ignore if arguments.ignore_label is None else arguments.ignore_label,
        missing=arguments.missing,
    )
    cases = arguments.cases[0] if arguments.cases in (["all"], ["predicted"], ["common"]) else arguments.cases
    with step("scoring", None, "cases") as counted:
        evaluation = evaluate_folders(
            arguments.prediction,
            arguments.reference,
            labels=table.labels,
            names=None if table.labels else known_names(Path(arguments.prediction), Path(arguments.reference)),
            regions=table.regions | dict(parse_region(text) for text in arguments.region),
            cases=cases,
            settings=settings,
            workers=arguments.threads or 1,
            progress=None if arguments.quiet else partial(_show_progress, counted),
        )
    if arguments.output and evaluation.cases:
        _write(evaluation, Path(arguments.output), arguments.images)
    _print(evaluation, arguments)
    if not evaluation.cases:
        return EXIT_NOTHING_DONE
    return EXIT_SOME_FAILED if evaluation.failed else EXIT_OK


def _write(evaluation: Evaluation, folder: Path, images: str | None) -> None:
    from medseg.evaluation.report.page import write_report
    from medseg.evaluation.report.sections import (
        agreement_section,
        cases_section,
        overlays_section,
        scores_section,
    )

    evaluation.to_json(folder / "evaluation.json")
    evaluation.to_csv(folder / "evaluation.csv")
    names = {values[0]: name for name, values in evaluation.regions.items() if len(values) == 1}
    stamps = {case.name: _stamp(case.prediction) for case in evaluation.cases if case.prediction is not None}
    scenes = _scenes(evaluation, Path(images) if images is not None else None, stamps)
    worst = overlays_section(scenes, names, title="Worst, median and best case")
    if images is None:
        worst.text("The images were not named (--images DIR): label maps only.", quiet=True)
    subtitle = f"{len(evaluation.cases)} cases scored, {len(evaluation.failed)} failed"
    cases = cases_section(evaluation, stamps=stamps, pictured={scene.name for scene in scenes})
    sections = [worst, cases, scores_section(evaluation), agreement_section(evaluation)]
    write_report(folder / "report.html", "Evaluation", sections, subtitle=subtitle)


def _scenes(evaluation: Evaluation, images: Path | None, stamps: Mapping[str, str], count: int = 5) -> list[Scene]:
    """The cases to show with their images; without a folder of images, on black."""
    import numpy as np

    from medseg.evaluation.report.sections import Scene, showcase
    from medseg.io.geometry import check_same_grid
    from medseg.io.volume import is_volume_file, read_image, read_label

    listed = sorted(images.iterdir()) if images is not None else []
    # the first channel of a case, with or without nnU-Net's channel number
    files = {case_name(path).removesuffix("_0000"): path for path in listed if is_volume_file(path)}
    scenes = []
    for role, case in showcase(evaluation, count, metric=evaluation.settings.metrics[0]):
        if case.prediction is None or case.reference is None or (images is not None and case.name not in files):
            continue
        prediction, reference = read_label(case.prediction), read_label(case.reference)
        background = np.zeros(reference.array.shape, np.float32)
        if images is not None:
            image = read_image(files[case.name])
            check_same_grid(image, reference, whose=f"case {case.name!r}")
            background = image.array[0]
        scenes.append(
            Scene(
                case.name,
                background,
                prediction.array,
                reference.array,
                reference.affine,
                case,
                stamps.get(case.name, ""),
                role,
            )
        )
    return scenes


def _stamp(prediction: Path) -> str:
    """What the record that `medseg predict` left beside a label map says of its scope."""
    from medseg.cases.scope import stamp_of

    try:
        sentences = read_json(prediction.with_name(f"{case_name(prediction)}.json")).get("out_of_scope")
    except (OSError, ValueError, AttributeError):
        return ""
    return stamp_of([str(one) for one in sentences]) if isinstance(sentences, list) else ""


def _show_progress(counted: Step, done: int, total: int, name: str) -> None:
    counted.total, counted.done = total, done
    if sys.stderr.isatty():
        print(
            f"\rscored {done}/{total} {printable(name):40.40}",
            end="\n" if done == total else "",
            file=sys.stderr,
            flush=True,
        )


def _print(evaluation: Evaluation, arguments: argparse.Namespace) -> None:
    from medseg.evaluation import DEFINITIONS

    if arguments.json:
        print(json.dumps(evaluation.as_dict(), allow_nan=False))
    elif evaluation.cases and not arguments.quiet:
        print(evaluation.table())
        print(f"{len(evaluation.cases)} cases; {DEFINITIONS['interval']}")
        if evaluation.skipped:
            print(f"{len(evaluation.skipped)} references without a prediction were left out")
        if arguments.output:
            print(f"written to {arguments.output}")
    for name, reason in evaluation.failed.items():
        print(f"failed: {printable(name)}: {printable(reason)}", file=sys.stderr)
