"""medseg predict: segment volumes with a bundle."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import TYPE_CHECKING

from medseg.errors import ConfigError, printable
from medseg.heartbeat import Step, step

from .consent import consent
from .duration import parse_duration
from .main import EXIT_NOTHING_DONE, EXIT_OK, EXIT_SOME_FAILED, add_common_arguments
from .words import UsageError, bundle_first

if TYPE_CHECKING:
    from medseg.cases.batch import CaseResult

UNITS = {"": 1, "B": 1, "K": 2**10, "KB": 2**10, "M": 2**20, "MB": 2**20, "G": 2**30, "GB": 2**30}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", nargs="?", metavar="BUNDLE", help="folder or name of a bundle")
    parser.add_argument(
        "inputs", nargs="*", metavar="INPUT", help="volume file, folder, pattern, csv list, DICOM folder"
    )
    parser.add_argument(
        "-i",
        "--input",
        nargs="+",
        action="extend",
        default=[],
        metavar="INPUT",
        help="the same; one or several, repeatable",
    )
    parser.add_argument(
        "-o", "--output", default="predictions", metavar="DIR", help="folder to write to (default: predictions)"
    )
    parser.add_argument(
        "--format", default="nii.gz", metavar="F", help="nii.gz (default), nii, nrrd, mha, or dcm: DICOM SEG"
    )
    parser.add_argument("--one-file-per-label", action="store_true", help="NAME/LABEL.nii.gz instead of one label map")
    parser.add_argument(
        "--probabilities", action="store_true", help="also write NAME_probabilities.nii.gz, all classes"
    )
    parser.add_argument(
        "--uncertainty", action="store_true", help="also write NAME_uncertainty.nii.gz, 0 (certain) to 255"
    )
    parser.add_argument("--statistics", action="store_true", help="measure surfaces and intensities, not only volumes")
    parser.add_argument("--no-preview", action="store_true", help="write no PNG per case")
    parser.add_argument(
        "--anonymous-names", action="store_true", help="name cases by a hash of the input, in files and messages"
    )
    parser.add_argument(
        "--anyway", action="store_true", help="predict also what is of another modality than the model's"
    )
    parser.add_argument(
        "--workers", metavar="ray[=ADDRESS]", help="one worker per device, on this machine or a Ray cluster"
    )
    parser.add_argument("--part", metavar="i/N", help="only every N-th case, from the i-th on: a task of a job array")
    parser.add_argument(
        "--case-limit",
        type=parse_duration,
        default=3600.0,
        metavar="1h",
        help="with --workers or --part: time of a case",
    )
    parser.add_argument("--continue", dest="resume", action="store_true", help="skip cases that are finished")
    parser.add_argument(
        "--overlap", type=float, metavar="X", help="shared part of neighbouring windows (default: bundle's)"
    )
    parser.add_argument(
        "--window-batch", type=int, metavar="N", help="windows per call of the network (default: bundle's)"
    )
    parser.add_argument(
        "--mirror", metavar="AXES", help="test-time mirroring: none, or axes such as xyz (default: bundle's)"
    )
    parser.add_argument(
        "--fast", action="store_true", help="find the organs at low resolution first, where the bundle provides it"
    )
    parser.add_argument(
        "--fold", type=int, metavar="N", help="one fold's network (default: the average of those that the bundle lists)"
    )
    parser.add_argument("--engine", default="auto", metavar="E", help="auto (timed), eager, compile or openvino")
    parser.add_argument(
        "--precision", metavar="P", help="fp32, bf16 or fp16 (default: fp32 on a CPU, 16 bits on a GPU)"
    )
    parser.add_argument(
        "--max-memory", type=parse_size, metavar="8GB", help="memory for the logits (default: what is free)"
    )
    add_common_arguments(parser, "device", "threads", "json", "quiet", "trust")


def parse_size(text: str) -> int:
    """Bytes of `8GB`, `500M`, `1.5g`.

    Example:
        >>> parse_size("1.5GB")
        1610612736
    """
    number = text.strip().upper().rstrip("GMKB")
    unit = text.strip().upper()[len(number) :]
    if not unit and number:
        raise argparse.ArgumentTypeError(f"{text!r} has no unit; expected such as 8GB or 500MB")
    try:
        return int(float(number) * UNITS[unit])
    except (KeyError, ValueError):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; expected such as 8GB or 500MB") from None


def parse_mirror(text: str | None) -> tuple[int, ...] | None:
    """Axes of `xyz`, `xy`, `none`; None stays None.

    Example:
        >>> parse_mirror("xz")
        (0, 2)
    """
    if text is None:
        return None
    if text.lower() in ("none", ""):
        return ()
    if set(text.lower()) - set("xyz"):
        raise ConfigError(f"--mirror {text!r}: expected none, or letters out of x, y and z")
    return tuple(sorted({"xyz".index(letter) for letter in text.lower()}))


def run(arguments: argparse.Namespace) -> int:
    arguments.bundle, inputs = bundle_first(arguments.bundle, [*arguments.inputs, *arguments.input])
    if arguments.bundle is None:
        raise UsageError("no BUNDLE is given; name its folder: medseg predict BUNDLE -i scans/ -o labels/")
    if not inputs:
        raise UsageError("no input is given; name a file, a folder, a pattern, a csv list or a DICOM folder: -i INPUT")
    from medseg.bundle.catalogue import find_bundle
    from medseg.cases.batch import first_look

    find_bundle(arguments.bundle)
    # before torch is imported: a broken file is named at once, unless names are not to be said
    alone = arguments.workers is None and arguments.part is None
    read_already = first_look(inputs) if alone and not arguments.anonymous_names else {}
    from medseg.commands.asked import Asked
    from medseg.commands.predict import predict_asked
    from medseg.inference.settings import PredictOptions

    options = PredictOptions(
        device=arguments.device,
        overlap=arguments.overlap,
        window_batch=arguments.window_batch,
        mirror=parse_mirror(arguments.mirror),
        engine=arguments.engine,
        precision=arguments.precision,
        max_memory=arguments.max_memory,
        fast=arguments.fast,
        fold=arguments.fold,
    )
    spread = None
    if arguments.workers is not None or arguments.part is not None:
        from medseg.cases.parts import Part
        from medseg.commands.cohort import Spread

        part = Part() if arguments.part is None else Part.of(arguments.part)
        spread = Spread(arguments.workers, part, arguments.case_limit, arguments.threads)
    screen = _Screen(quiet=arguments.quiet or arguments.json)
    with step("opening the bundle") as screen.step:
        result = predict_asked(
            arguments.bundle,
            inputs,
            Asked.of(arguments.output, options, consent(arguments), _words(arguments)),
            spread=spread,
            read_already=read_already,
            progress=screen.progress,
            finished=screen.finished,
        )
    screen.clear()
    if arguments.json:
        print(json.dumps(result.to_dict()))
    done = len(result.cases) - len(result.failed)
    if result.failed and len(result.cases) > 1 and not arguments.json:
        names = ", ".join(printable(case.name) for case in result.failed)
        failed = f"{len(result.failed)} of {len(result.cases)} cases failed"
        print(f"medseg: {failed}, see above: {names}", file=sys.stderr)
    if done and not (arguments.json or arguments.quiet):
        print(f"{done} of {len(result.cases)} cases in {result.folder}")
    if not result.failed:
        return EXIT_OK
    return EXIT_SOME_FAILED if done else EXIT_NOTHING_DONE


def _words(arguments: argparse.Namespace) -> dict[str, object]:
    """The words that `medseg.commands.asked.Words` lists."""
    same = ("one_file_per_label", "probabilities", "uncertainty", "statistics", "resume", "anonymous_names", "anyway")
    return {name: getattr(arguments, name) for name in same} | {
        "suffix": arguments.format,
        "preview": not arguments.no_preview,
    }


class _Screen:
    """Progress on stderr: one line that is rewritten on a terminal, a line per case elsewhere."""

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self.live = sys.stderr.isatty() and not quiet
        self.step = Step("")
        self.began = time.monotonic()
        self.case, self.case_began, self.shown = "", self.began, 0.0

    def progress(self, case: str, done: int, total: int) -> None:
        now = time.monotonic()
        if case != self.case:
            self.case, self.case_began = case, now
        self.step.title, self.step.total, self.step.unit = printable(case), total, "windows"
        self.step.done, self.step.began = done, self.case_began
        if not self.live or (now - self.shown < 0.2 and done < total):
            return
        self.shown = now
        left = (now - self.case_began) / max(done, 1) * (total - done)
        text = f"{printable(case)}: window {done} of {total}, about {left:.0f} s left"
        print(f"\r\033[K{text[:110]}", end="", file=sys.stderr, flush=True)

    def finished(self, result: CaseResult, done: int, total: int) -> None:
        self.clear()
        if result.status == "failed":  # at once: a folder may take hours
            print(f"medseg: {printable(result.name)}: {printable(result.error)}", file=sys.stderr, flush=True)
        if self.quiet or result.status == "failed":
            return
        left = (time.monotonic() - self.began) / done * (total - done)
        rest = f", about {left:.0f} s left" if done < total else ""
        what = f"{result.seconds:.1f} s" if result.status == "done" else result.status
        print(f"[{done}/{total}] {printable(result.name)}: {what}{rest}", file=sys.stderr)

    def clear(self) -> None:
        if self.live:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
