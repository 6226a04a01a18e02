"""Many cases: the next one is read while this one is computed and the previous one is written; a failed one stops nobody."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medseg.datasets import read_case_image
from medseg.errors import DataError, printable
from medseg.inference.evidence import image_facts
from medseg.io import Case, Header, Volume, find_inputs, write_image, write_json, write_label
from medseg.io.atomic import write_bytes
from medseg.io.behind import read_unchanged, volume_digest
from medseg.types import Affine, FilePath

from .measures import measure
from .outputs import CaseOutputs, OutputOptions, make_room
from .preview import Picture
from .record import finish_record, is_finished, label_digest, make_record, settings_hash
from .scope import Scope, stamp_of

log = logging.getLogger(__name__)


@dataclass
class Reading:
    """A case's image, and the SHA-256 of each of its volumes: of the very bytes that the image came from."""

    volume: Volume
    inputs: list[str]

    @classmethod
    def of(cls, case: Case, normalization: Sequence[Mapping[str, Any]] = ()) -> Reading:
        """Read a case. Raises MedsegError as `read_image`, and DataError when its files change all the time."""

        def read() -> Reading:
            return cls(read_case_image(case, normalization), [volume_digest(path) for path in case.images])

        return read_unchanged(case.images, read)


class Segmenter(Protocol):
    """What `Predictor` offers and any other way to segment a volume must."""

    def prepare(self, volume: Volume) -> object: ...

    def segment(self, prepared: Any, progress: Callable[[int, int], None] | None = None) -> NDArray[np.integer]: ...

    def describe(self) -> dict[str, Any]: ...


Judge = Callable[
    [NDArray[np.integer], Affine, Mapping[str, NDArray[np.float64]], Mapping[str, float]], Mapping[int, dict[str, Any]]
]


@dataclass
class CaseResult:
    """What became of one case: `status` is `done`, `skipped` or `failed`."""

    name: str
    status: str
    outputs: list[str] = field(default_factory=list)
    error: str = ""
    seconds: float = 0.0
    measures: list[dict[str, Any]] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    out_of_scope: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {key: value for key, value in self.__dict__.items() if value not in ("", [])}


@dataclass
class Job:
    """All that a run over cases needs.

    Args:
        segmenter: made when the first case has been read, so that a broken input is named before torch is imported.
        labels: label value -> name, background included.
        model: JSON-ready facts of the model, for the record.
        options: what is written.
        request: JSON-ready settings that decide the labels; `--continue` compares them.
        progress: called with (case, windows done, windows in all).
        codes: DICOM codes per label name, from the bundle's label file.
        read_already: what `first_look` read, by the files; each is taken once.
        scope: what the model was made with; a case outside says so in its record and picture.
        anyway: predict cases of another modality, too.
        normalization: per channel, for those that a case lacks: they become 0 before the network.
        judge: label map, affine, `Predictor.confidence` and facts of the image -> label value -> what the record says of trust.
    """

    segmenter: Callable[[], Segmenter]
    labels: Mapping[int, str]
    model: Mapping[str, Any]
    options: OutputOptions
    request: Mapping[str, Any] = field(default_factory=dict)
    progress: Callable[[str, int, int], None] | None = None
    codes: Mapping[str, Any] = field(default_factory=dict)
    read_already: dict[tuple[Path, ...], Reading] = field(default_factory=dict)
    scope: Scope | None = None
    anyway: bool = False
    normalization: Sequence[Mapping[str, Any]] = ()
    judge: Judge | None = None

    @property
    def request_hash(self) -> str:
        """Of all that decides what is written: the labels, and the names by which records and files call them."""
        names = {str(value): name for value, name in self.labels.items()}
        return settings_hash({"model": dict(self.model), "request": dict(self.request), "labels": names})


def first_look(inputs: Sequence[FilePath]) -> dict[tuple[Path, ...], Reading]:
    """Find the inputs before torch is imported, and read the only one of a single case at once.

    So a broken file is named within a second. With several cases each is reported when its turn comes.

    Raises:
        MedsegError: nothing there, or the one file cannot be used.
    """
    cases = find_inputs(inputs, gaps=True)  # whether the network does without a channel is the bundle's to say
    if len(cases) != 1 or len(cases[0].images) != 1:
        return {}
    return {cases[0].images: Reading.of(cases[0])}


@dataclass
class _Kept:
    """What writing needs of an image, so that the voxels themselves can go while the network runs."""

    header: Header
    affine: NDArray[np.float64]
    inputs: list[str]
    picture: Picture | None
    image: NDArray[np.float32] | None
    out_of_scope: list[str] = field(default_factory=list)
    probabilities: NDArray[np.float16] | None = None
    uncertainty: NDArray[np.uint8] | None = None
    confidence: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    facts: Mapping[str, float] = field(default_factory=dict)


def run_cases(cases: Sequence[Case], job: Job) -> Iterator[CaseResult]:
    """Predict all cases in order, yielding each result as soon as its files are written (or it failed)."""
    segmenter: Segmenter | None = None
    writing: Future[CaseResult] | None = None
    with (
        contextlib.ExitStack() as after,
        ThreadPoolExecutor(1, "read") as reader,
        ThreadPoolExecutor(1, "write") as writer,
    ):
        after.callback(gc.unfreeze)
        for case, box in _read_ahead(cases, reader, job):
            began = time.perf_counter()
            task: Callable[[], CaseResult]
            if segmenter is None and isinstance(box[0], Reading):
                segmenter = job.segmenter()  # what is wrong here (weights, device) is wrong for every case: not caught
                gc.freeze()  # modules and weights are not looked through after each case
            try:
                if isinstance(box[0], Exception):
                    raise box.pop()  # type: ignore[misc]
                if box[0] is None:
                    task = partial(CaseResult, case.name, "skipped")
                else:
                    assert segmenter is not None
                    task = compute_case(case, box, segmenter, began, job)
            except Exception as error:
                task = partial(failed_case, case, error)
            if writing is not None:
                yield writing.result()
            writing = writer.submit(task)
            del task
            gc.collect()
        if writing is not None:
            yield writing.result()


def _read_ahead(
    cases: Sequence[Case], reader: ThreadPoolExecutor, job: Job
) -> Iterator[tuple[Case, list[Reading | Exception | None]]]:
    """Each case with its volume in a box that the taker empties, so that nothing here keeps the voxels alive."""
    ahead = [reader.submit(read_case, cases[0], job)] if cases else []
    for number, case in enumerate(cases):
        box: list[Reading | Exception | None] = [ahead.pop().result()]
        if number + 1 < len(cases):
            ahead.append(reader.submit(read_case, cases[number + 1], job))
        yield case, box


def read_case(case: Case, job: Job) -> Reading | Exception | None:
    """The case's image, why it cannot be read, or None when the case is finished already."""
    try:
        if job.options.resume:
            outputs = CaseOutputs.of(case, job.labels, job.options)
            if is_finished(outputs, job.request_hash, case, statistics=job.options.statistics):
                return None
        if case.images in job.read_already and not case.missing:
            return job.read_already.pop(case.images)
        return Reading.of(case, job.normalization)
    except Exception as error:
        return error


def compute_case(
    case: Case, box: list[Reading | Exception | None], segmenter: Segmenter, began: float, job: Job
) -> Callable[[], CaseResult]:
    """Run the network on the volume in the box; returns what is left to do, for the writing thread."""
    reading = box.pop()
    assert isinstance(reading, Reading)
    volume, inputs = reading.volume, reading.inputs
    del reading
    picture = Picture.of(volume.array[0], volume.affine) if job.options.preview else None
    image = volume.array[0] if job.options.statistics else None
    outside = job.scope.warnings(volume, missing=case.missing) if job.scope is not None else []
    refusal = job.scope.refusal(volume) if job.scope is not None and not job.anyway else ""
    if refusal:
        raise DataError(f"{case.images[0]}: {refusal}")
    kept = _Kept(volume.header, volume.affine, inputs, picture, image, outside)
    prepared = segmenter.prepare(volume)
    del volume

    def progress(done: int, total: int) -> None:
        if job.progress is not None:
            job.progress(case.name, done, total)

    if job.judge is not None:
        full: Any = getattr(prepared, "full", prepared)  # of the two of `--fast`, the one that labels
        kept.facts = image_facts(full.image)
    label = segmenter.segment(prepared, progress)
    kept.probabilities = getattr(segmenter, "probabilities", None)
    kept.uncertainty = getattr(segmenter, "uncertainty", None)
    kept.confidence = getattr(segmenter, "confidence", {})
    if job.options.probabilities and kept.probabilities is None:
        raise DataError("this bundle's own postprocessing gives labels only; probabilities cannot be written")
    if job.options.uncertainty and kept.uncertainty is None:
        raise DataError("this bundle's own postprocessing gives labels only; no map of uncertainty can be written")
    steps = list(getattr(segmenter, "steps", []))
    return partial(_finish, case, kept, label, segmenter.describe(), steps, began, job)


def failed_case(case: Case, error: Exception) -> CaseResult:
    if os.environ.get("MEDSEG_DEBUG"):
        traceback.print_exception(error)
    text = " ".join(str(error).split()) or type(error).__name__
    if not isinstance(error, ValueError | OSError | MemoryError):
        text = f"{type(error).__name__}: {text}"
    if not any(str(path) in text for path in case.images):
        text = f"{case.images[0]}: {text}"
    return CaseResult(case.name, "failed", error=printable(text))


def _finish(
    case: Case,
    kept: _Kept,
    label: NDArray[np.integer],
    settings: dict[str, Any],
    steps: list[str],
    began: float,
    job: Job,
) -> CaseResult:
    """Measure and write one case; the record comes last, so that it stands for a whole output."""
    try:
        computed = time.perf_counter()
        rows = measure(label, kept.affine, job.labels, image=kept.image, details=job.options.statistics)
        if job.judge is not None and kept.confidence:
            judged = job.judge(label, kept.affine, kept.confidence, kept.facts)
            rows = [row | judged.get(row["label"], {}) for row in rows]
        outputs = CaseOutputs.of(case, job.labels, job.options)
        make_room(case, outputs, label_digest(label))
        _write_labels(outputs, kept.header, label, job)
        if outputs.probabilities and kept.probabilities is not None:
            write_image(outputs.probabilities, kept.probabilities, kept.header)
        if outputs.uncertainty and kept.uncertainty is not None:
            write_label(outputs.uncertainty, kept.uncertainty, kept.header)
        if outputs.preview and kept.picture is not None:
            write_bytes(outputs.preview, kept.picture.png(label, job.labels, stamp=stamp_of(kept.out_of_scope)))
        seconds = {"compute": computed - began, "write": time.perf_counter() - computed}
        record = make_record(
            inputs=kept.inputs,
            label=label,
            model=job.model,
            settings=settings,
            measures=rows,
            seconds=seconds,
            out_of_scope=kept.out_of_scope,
        )
        finish_record(record, case, job.request_hash, outputs, job.options)
        write_json(outputs.record, record)
        paths = [*outputs.results().values(), outputs.record]
        taken = time.perf_counter() - began
        outside = kept.out_of_scope
        return CaseResult(case.name, "done", [path.name for path in paths], "", taken, rows, steps, outside)
    except Exception as error:
        return failed_case(case, error)


def label_paths(case: Case, job: Job) -> list[Path]:
    """The label files of a case."""
    return list(CaseOutputs.of(case, job.labels, job.options).labels.values())


def _write_labels(outputs: CaseOutputs, header: Header, label: NDArray[np.integer], job: Job) -> None:
    if job.options.suffix == ".dcm":
        from medseg.io.formats.dicom_seg import segment_for, write_segmentation

        if job.options.one_file_per_label:
            raise DataError("DICOM SEG holds all labels in one file; leave out --one-file-per-label")
        segments = {value: segment_for(name, job.codes.get(name)) for value, name in job.labels.items() if value != 0}
        write_segmentation(outputs.labels[0], label, header, segments)
        return
    if not job.options.one_file_per_label:
        write_label(outputs.labels[0], label, header)
        return
    for value, path in outputs.labels.items():
        write_label(path, (label == value).astype(np.uint8), header)
