"""Predict with a bundle: check the inputs, open the bundle, run the cases, write labels, measures and records."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg.errors import BundleError, ConfigError, DataError
from medseg.inference.batch import CaseResult, Job, OutputOptions, Segmenter, run_cases
from medseg.inference.measures import rows_to_csv
from medseg.inference.record import file_digest
from medseg.inference.scope import Scope
from medseg.io import Case, Volume, find_inputs, write_json, write_text
from medseg.io.atomic import remove_leftovers
from medseg.types import FilePath

from .load import Bundle, load_bundle

CSV_NAME, SUMMARY_NAME = "volumes.csv", "summary.json"
FORMATS = (".nii.gz", ".nii", ".nrrd", ".seg.nrrd", ".mha", ".dcm")


@dataclass(frozen=True)
class PredictOptions:
    """How to predict; None takes the bundle's own value.

    Args:
        device: auto, cpu, cuda, cuda:N, mps.
        overlap: shared fraction of neighbouring windows.
        window_batch: windows per call of the network.
        mirror: mirror along these axes (0 X, 1 Y, 2 Z); () for none, None for the bundle's.
        engine: auto, eager, compile, openvino.
        precision: fp32, bf16, fp16.
        max_memory: bytes for the logits.
        slab_type: auto, float32, float16.
        fast: let the bundle's low-resolution network find the box in which the full-resolution one works.
    """

    device: str = "auto"
    overlap: float | None = None
    window_batch: int | None = None
    mirror: tuple[int, ...] | None = None
    engine: str = "auto"
    precision: str | None = None
    max_memory: int | None = None
    slab_type: str = "auto"
    fast: bool = False

    def request(self) -> dict[str, Any]:
        """The settings that decide the labels (not how fast they come), for `--continue`."""
        asked = {"overlap": self.overlap, "mirror": self.mirror, "precision": self.precision, "slab": self.slab_type}
        return asked | ({"fast": True} if self.fast else {})


@dataclass
class Prediction:
    """What became of a run."""

    folder: Path
    cases: list[CaseResult] = field(default_factory=list)

    @property
    def failed(self) -> list[CaseResult]:
        return [case for case in self.cases if case.status == "failed"]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready summary."""
        counts = {kind: sum(case.status == kind for case in self.cases) for kind in ("done", "skipped", "failed")}
        return {**counts, "cases": [case.to_dict() for case in self.cases]}


def predict_bundle(
    bundle: FilePath,
    inputs: FilePath | Sequence[FilePath],
    output: FilePath = "predictions",
    *,
    options: PredictOptions | None = None,
    suffix: str = ".nii.gz",
    one_file_per_label: bool = False,
    probabilities: bool = False,
    preview: bool = True,
    statistics: bool = False,
    resume: bool = False,
    trust: bool = False,
    anonymous_names: bool = False,
    read_already: dict[tuple[Path, ...], Volume] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    finished: Callable[[CaseResult, int, int], None] | None = None,
) -> Prediction:
    """Segment volumes with a bundle, as `medseg predict` does.

    Args:
        bundle: folder or name of a bundle.
        inputs: files, folders, patterns, csv lists, DICOM folders.
        output: folder for NAME.nii.gz, NAME.json (record and volumes), NAME.png, volumes.csv and summary.json.
        options: how to predict.
        suffix: format of the label maps, one of `FORMATS`.
        one_file_per_label: a folder per case with one file per label.
        probabilities: write NAME_probabilities.nii.gz too, one channel per class.
        preview: write a PNG per case.
        statistics: measure surfaces and intensities too.
        resume: skip what the same model and settings have finished.
        trust: let the bundle run code that is not on the allow-list.
        anonymous_names: name outputs by a hash of the input's bytes, since file names often name people.
        read_already: volumes that `medseg.inference.batch.first_look` read.
        progress: called with (case, windows done, windows in all).
        finished: called with (result, cases done, cases in all).

    Raises:
        MedsegError: nothing could be done at all. A case that fails is listed in the result instead.
    """
    options = options or PredictOptions()
    suffix = suffix if suffix.startswith(".") else f".{suffix}"
    if suffix not in FORMATS:
        raise ConfigError(f"format {suffix!r}: expected one of {', '.join(FORMATS)}")
    opened = load_bundle(str(bundle), trust=trust)
    words = [inputs] if isinstance(inputs, str) or not isinstance(inputs, Sequence) else list(inputs)
    cases = find_inputs(words, channels=len(opened.channels))
    if anonymous_names:
        cases = [dataclasses.replace(case, name=f"case_{file_digest(case.images[0])[:16]}") for case in cases]
    folder = Path(output)
    _refuse_overwriting(cases, folder, suffix)
    model = model_facts(opened)
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    job = Job(
        segmenter=lambda: make_segmenter(opened, options, cases=len(cases), probabilities=probabilities),
        labels=opened.labels,
        model=model,
        options=OutputOptions(folder, suffix, one_file_per_label, probabilities, preview, statistics, resume),
        request=options.request(),
        progress=progress,
        codes=label_codes(opened),
        read_already=read_already or {},
        scope=scope_of(opened),
    )
    result = Prediction(folder)
    for case in run_cases(cases, job):
        result.cases.append(case)
        if finished is not None:
            finished(case, len(result.cases), len(cases))
    _write_summary(result, resume=resume)
    return result


def make_segmenter(
    bundle: Bundle, options: PredictOptions, *, cases: int = 1, probabilities: bool = False
) -> Segmenter:
    """The bundle's networks and settings as something that segments volumes; torch is imported here."""
    from medseg.config import choose_device
    from medseg.inference.predictor import Predictor
    from medseg.transforms.postprocessing import Postprocessing

    from .low_resolution import locating, settings_of

    if options.fast:
        settings_of(bundle)  # before weights are read
    if "preprocessing_def" not in bundle.config:
        return _foreign_segmenter(bundle, options)
    settings = bundle.inference_settings
    extra = bundle.plan.inference if bundle.plan is not None else {}
    mirror = settings["mirror_axes"] if options.mirror is None else options.mirror
    full = Predictor(
        bundle.networks(),
        bundle.preprocessing,
        bundle.roi_size,
        overlap=settings["overlap"] if options.overlap is None else options.overlap,
        # asking for a float32 slab asks for more precision than nnU-Net's own arithmetic
        accumulation="float32" if options.slab_type == "float32" else str(extra.get("accumulation", "float32")),
        sw_batch_size=options.window_batch or int(settings["sw_batch_size"]),
        mode=str(extra.get("importance", settings["mode"])),
        placement=str(extra.get("placement", "regular")),
        mirror_axes=mirror,
        label_values=bundle.label_values,
        regions=bundle.has_regions,
        device=choose_device(options.device),
        engine=options.engine,
        precision=options.precision,
        memory_limit=options.max_memory,
        slab_type=options.slab_type,
        cases=cases,
        keep_probabilities=probabilities,
        postprocessing=[Postprocessing(settings["postprocessing"])] if settings["postprocessing"] else (),
    )
    return locating(bundle, full) if options.fast else full


def _foreign_segmenter(bundle: Bundle, options: PredictOptions) -> Segmenter:
    """A bundle in the model zoo's layout that medseg did not write; its settings are its own.

    Raises:
        BundleError: it lacks what the layout asks for.
        ConfigError: an option that only our own bundles have.
    """
    from medseg.config import choose_device
    from medseg.inference.foreign import MonaiSegmenter

    if options.overlap is not None or options.mirror or options.precision not in (None, "fp32"):
        raise ConfigError(
            f"{bundle.folder}: medseg did not write this bundle; set overlap, mirroring and precision in its inference.json"
        )
    config = bundle.config
    missing = [key for key in ("preprocessing", "inferer", "network_def") if key not in config]
    if missing:
        raise BundleError(f"{bundle.layout.inference}: has no {', '.join(missing)}, so it cannot predict volumes")
    values = sorted(bundle.labels)
    return MonaiSegmenter(
        bundle.network(),
        config.get("preprocessing"),
        config.get("postprocessing") if "postprocessing" in config else None,
        config.get("inferer"),
        device=choose_device(options.device),
        label_values=values,
    )


def model_facts(bundle: Bundle) -> dict[str, Any]:
    """Name, version and SHA-256 of the weights.

    Raises:
        BundleError: a weight file is missing.
    """
    from .weights import sha256_of

    files = bundle.weight_files
    missing = [path for path in files if not path.is_file()]
    if missing:
        raise DataError(f"{missing[0]} is missing: train the bundle with `medseg fit`, or put its weights there")
    return {
        "name": bundle.name,
        "version": bundle.version,
        "weights_sha256": {str(path.relative_to(bundle.folder)): sha256_of(path) for path in files},
    }


def scope_of(bundle: Bundle) -> Scope:
    """What the bundle was made with, for warnings: its modalities, and the fingerprint that planning measured."""
    if bundle.plan is not None:
        return Scope(bundle.channels, bundle.plan.fingerprint)
    image = bundle.metadata.get("network_data_format", {}).get("inputs", {}).get("image", {})
    return Scope({**bundle.channels, -1: str(image.get("modality", ""))})


def label_codes(bundle: Bundle) -> dict[str, Any]:
    """DICOM codes per label name from the bundle's configs/labels.json, where it has one."""
    import json

    path = bundle.folder / "configs" / "labels.json"
    if not path.is_file():
        return {}
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {error}") from error
    listed = entries.values() if isinstance(entries, dict) else entries
    return {str(entry["name"]): entry["codes"] for entry in listed if "codes" in entry}


def _refuse_overwriting(cases: Sequence[Case], folder: Path, suffix: str) -> None:
    """An output that would replace an input is a typing error, not a wish."""
    for case in cases:
        target = (folder / f"{case.name}{suffix}").resolve()
        if any(path.resolve() == target for path in case.images):
            raise DataError(f"{target}: the output would replace the input; choose another folder with --output")


def _write_summary(result: Prediction, *, resume: bool) -> None:
    rows = [{"case": case.name, **row} for case in result.cases for row in case.measures]
    if resume:
        rows = _with_earlier(result, rows)
    if rows:
        write_text(result.folder / CSV_NAME, rows_to_csv(rows))
    write_json(result.folder / SUMMARY_NAME, result.to_dict())


def _with_earlier(result: Prediction, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the skipped cases too, from their records, in the order of the cases."""
    import json

    by_case: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_case.setdefault(row["case"], []).append(row)
    for case in result.cases:
        if case.status == "skipped":
            record = json.loads((result.folder / f"{case.name}.json").read_text(encoding="utf-8"))
            by_case[case.name] = [{"case": case.name, **row} for row in record["labels"]]
    return [row for case in result.cases for row in by_case.get(case.name, [])]
