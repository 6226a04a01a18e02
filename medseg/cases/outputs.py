"""What is written for a case, and where: all paths are known before anything is computed, and no two are one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg.errors import DataError, MedsegError
from medseg.io import Case
from medseg.io.behind import case_files, content_digest
from medseg.io.file_names import distinct_file_names, same_file
from medseg.record import PICTURE, PROBABILITIES, RECORD, SUMMARY, UNCERTAINTY, read_record

# names of the files that a run writes for all its cases
CSV_NAME, SUMMARY_NAME = "volumes.csv", SUMMARY
REVIEW_NAME = "review.html"
# of a run over a part of them, and the list of all that `medseg cluster slurm` writes
LIST_NAME = "cases.csv"


@dataclass(frozen=True)
class OutputOptions:
    """What is written for each case.

    Args:
        folder: where to.
        suffix: format of the label maps: `.nii.gz`, `.nii`, `.nrrd`, `.mha`, ... or `.dcm` for DICOM SEG.
        one_file_per_label: NAME/LABEL.suffix with 0 and 1 instead of one map NAME.suffix.
        probabilities: also NAME_probabilities.nii.gz, one channel per class, float32.
        preview: also NAME.png.
        statistics: surface and intensities in the record, next to the volumes.
        resume: skip cases that the same model and settings have finished.
        uncertainty: also NAME_uncertainty.nii.gz, 0 (certain) to 255.
    """

    folder: Path
    suffix: str = ".nii.gz"
    one_file_per_label: bool = False
    probabilities: bool = False
    preview: bool = True
    statistics: bool = False
    resume: bool = False
    uncertainty: bool = False


@dataclass(frozen=True)
class CaseOutputs:
    """The files of one case.

    Args:
        record: what was read, by which model, with which settings, and what came out.
        labels: label value -> its file; the key 0 for the one map of all labels.
        probabilities: where asked for.
        preview: where asked for.
        uncertainty: where asked for.
    """

    record: Path
    labels: Mapping[int, Path]
    probabilities: Path | None = None
    preview: Path | None = None
    uncertainty: Path | None = None

    @classmethod
    def of(cls, case: Case, labels: Mapping[int, str], options: OutputOptions) -> CaseOutputs:
        """Where the files of a case lie."""
        folder, name = options.folder, case.name
        maps = {0: folder / f"{name}{options.suffix}"}
        if options.one_file_per_label:
            names = distinct_file_names({value: text for value, text in labels.items() if value != 0})
            maps = {value: folder / name / f"{one}{options.suffix}" for value, one in names.items()}
        return cls(
            folder / f"{name}{RECORD}",
            maps,
            folder / f"{name}{PROBABILITIES}" if options.probabilities else None,
            folder / f"{name}{PICTURE}" if options.preview else None,
            folder / f"{name}{UNCERTAINTY}" if options.uncertainty else None,
        )

    def results(self) -> dict[str, Path]:
        """What a file is -> where it lies, without the record; the record names files by these words."""
        found = {f"label_{value}" if value else "label": path for value, path in self.labels.items()}
        found |= {"probabilities": self.probabilities} if self.probabilities else {}
        found |= {"uncertainty": self.uncertainty} if self.uncertainty else {}
        return found | ({"preview": self.preview} if self.preview else {})


def check_outputs(cases: Sequence[Case], labels: Mapping[int, str], options: OutputOptions) -> None:
    """Refuse what would write two things into one file, or over a file that is not ours to replace.

    Raises:
        DataError: names both, and the way out.
    """
    root = os.path.realpath(options.folder)
    inputs = {os.path.realpath(file) for case in cases for file in _files_of(case)}
    identities = {(os.path.dirname(place), identity) for place in inputs if (identity := _identity(place)) is not None}
    taken = {
        same_file(os.path.join(root, name)): f"the run's own {name}" for name in (CSV_NAME, SUMMARY_NAME, REVIEW_NAME)
    }
    for case in cases:
        outputs = CaseOutputs.of(case, labels, options)
        for path in (outputs.record, *outputs.results().values()):
            place = os.path.join(os.path.realpath(path.parent) if path.parent != options.folder else root, path.name)
            if path.is_symlink():
                place = os.path.realpath(path)
            if place in inputs or (os.path.dirname(place), _identity(path)) in identities:
                raise DataError(f"{path}: the output would replace the input; choose another folder with --output")
            other = taken.setdefault(same_file(place), f"case {case.name!r}")
            if other != f"case {case.name!r}":
                raise DataError(
                    f"{path}: case {case.name!r} and {other} would be written to this one file; rename an input, or give names "
                    "in a csv list"
                )
        if os.path.lexists(outputs.record) and read_record(outputs.record) is None:
            raise DataError(
                f"{outputs.record}: exists and is no record of medseg, and the record of case {case.name!r} would replace it; "
                "choose another folder with --output"
            )


def _identity(path: Path | str) -> tuple[int, int] | None:
    """Which file a name stands for: a disk that knows no upper and lower case, or a hard link, gives one several names."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _files_of(case: Case) -> Iterator[Path]:
    """The files behind a case; of one that cannot be read, the named ones."""
    try:
        yield from case_files(case)
    except MedsegError:
        yield from case.images


def make_room(case: Case, outputs: CaseOutputs, label_sha256: str) -> None:
    """Take away the old record, and the old picture and probabilities that would stand beside other labels than theirs.

    Only files that are still what the record says go; until the new record is written there is none.
    """
    if not outputs.record.exists():
        return
    old = read_record(outputs.record) or {}
    outputs.record.unlink()
    if old.get("label_sha256") == label_sha256:
        return
    written, folder = old.get("outputs_sha256", {}), outputs.record.parent
    ends = {"preview": PICTURE, "probabilities": PROBABILITIES, "uncertainty": UNCERTAINTY}
    for kind, end in ends.items():
        path = folder / f"{case.name}{end}"
        if (
            kind in written
            and kind not in outputs.results()
            and path.is_file()
            and content_digest(path) == written[kind]
        ):
            path.unlink()
