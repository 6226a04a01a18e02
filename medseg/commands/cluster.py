"""`medseg cluster`: a job array for a cohort on SLURM, and how far its parts are."""

from __future__ import annotations

import csv
import io
import os
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg.bundle.catalogue import find_bundle
from medseg.bundle.configs.deciding import takes_missing_channels
from medseg.bundle.load import Trust, load_bundle
from medseg.cases.outputs import LIST_NAME, OutputOptions, check_outputs
from medseg.cases.parts import SILENT_S, reports_in
from medseg.errors import ConfigError, DataError
from medseg.io import Case, find_inputs, write_text
from medseg.io.datalist import read_case_list
from medseg.record import RECORD, read_record
from medseg.types import FilePath

from .cohort import write_tables

# The comments of the file say why; {words} are all quoted for a shell.
SCRIPT = """\
#!/bin/bash
#SBATCH --job-name=medseg
#SBATCH --array=1-{parts}
#SBATCH --ntasks=1
#SBATCH --cpus-per-task={cpus}
{gpu}#SBATCH --time={hours}:00:00
#SBATCH --signal=B:USR1@180
#SBATCH --requeue
#SBATCH --output={log}
{more}
# Task i predicts every {parts}-th case of the list, from the i-th on. Started again, it does what is missing.
exec ${{MEDSEG:-medseg}} predict {bundle} --input {list} --output {output} --part "$SLURM_ARRAY_TASK_ID/{parts}" --quiet{words}
"""


@dataclass(frozen=True)
class Array:
    """A job array.

    Args:
        nodes: tasks, each on a machine of its own or a part of one.
        gpus: of each task.
        cpus: of each task.
        hours: that a task may take before SLURM starts it again.
        directives: further `#SBATCH` options, such as `--partition=gpu`.
        words: further words of `medseg predict`.
    """

    nodes: int
    gpus: int = 1
    cpus: int = 8
    hours: int = 8
    directives: Sequence[str] = ()
    words: Sequence[str] = ()


def write_array(
    bundle: FilePath, inputs: Sequence[FilePath], output: Path, array: Array, *, trust: Trust = False
) -> Path:
    """Write the list of cases and the script that predicts them, both into the output folder; nothing is started.

    Returns:
        The script.

    Raises:
        MedsegError: the bundle or an input cannot be used, or two cases would write one file.
    """
    if array.nodes < 1:
        raise ConfigError(f"--nodes is {array.nodes}; expected at least 1")
    folder = find_bundle(str(bundle))
    opened = load_bundle(str(folder), trust=trust).of_shown_files()
    cases = find_inputs(inputs, channels=opened.channels, gaps=takes_missing_channels(opened.config, opened.plan))
    check_outputs(cases, opened.labels, OutputOptions(output))
    parts = min(array.nodes, len(cases))
    listed = output / LIST_NAME
    write_text(listed, case_list(cases, len(opened.channels)))
    script = output / "predict.sbatch"
    text = SCRIPT.format(
        parts=parts, cpus=array.cpus, gpu=f"#SBATCH --gres=gpu:{array.gpus}\n" if array.gpus else "",
        hours=f"{array.hours:02d}", log=shlex.quote(str(output.resolve() / "part_%a.log")),
        more="".join(f"#SBATCH {one}\n" for one in array.directives), bundle=shlex.quote(str(folder.resolve())),
        list=shlex.quote(str(listed.resolve())), output=shlex.quote(str(output.resolve())),
        words="".join(f" {shlex.quote(word)}" for word in array.words),
    )  # fmt: skip
    write_text(script, text)
    return script


def case_list(cases: Sequence[Case], channels: int) -> str:
    """The cases as a csv list with whole paths, so that every task has the same ones whatever is added to a folder later."""
    single = max(len(case.images) for case in cases) == 1 and not any(case.missing for case in cases)
    columns = ["image"] if single else [f"image_{number}" for number in range(channels)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", *columns])
    for case in cases:
        images = iter(case.images)
        cells = ["" if number in case.missing else os.path.abspath(next(images)) for number in range(len(columns))]
        writer.writerow([case.name, *cells])
    return text.getvalue()


@dataclass
class Status:
    """How far a cohort is.

    Args:
        cases: in the list; None where there is none.
        done: that have a record.
        running: name -> part that works on it.
        failed: name -> reason.
        parts: lines on each part.
    """

    cases: int | None
    done: int
    running: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    parts: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return dict(self.__dict__)


def status_of(output: Path, *, now: float | None = None) -> Status:
    """What the records and the parts' own reports in an output folder say; volumes.csv is written of what is done.

    Raises:
        DataError: nothing of a cohort lies there.
    """
    listed = output / LIST_NAME
    reports = reports_in(output)
    if not reports and not listed.is_file():
        raise DataError(
            f"{output}: holds neither {LIST_NAME} nor a part's summary; it is the --output folder of `medseg cluster slurm`, or "
            "of `medseg predict` with --workers or --part"
        )
    done = sorted(path.name.removesuffix(RECORD) for path in output.glob(f"*{RECORD}") if read_record(path) is not None)
    cases = len(read_case_list(listed, gaps=True)) if listed.is_file() else sum(one["cases"] for one in reports)
    status = Status(cases, len(done))
    finished, moment = set(done), time.time() if now is None else now
    for report in reports:
        index, count = report["part"]
        silent = moment - report["updated"]
        state = "ended" if report["ended"] else "running" if silent < SILENT_S else f"silent for {silent:.0f} s"
        named = f"part {index} of {count} on {report['host']}"
        finished_here = report["done"] + report["skipped"]
        status.parts.append(
            f"{named}: {finished_here} of {report['cases']} done, {len(report['failed'])} failed, {state}"
        )
        status.failed |= {name: why for name, why in report["failed"].items() if name not in finished}
        if state == "running":
            status.running |= {name: named for name in report["running"] if name not in finished}
    write_tables(output, done)
    return status
