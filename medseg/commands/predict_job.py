"""What predicts the cases of a bundle: its model, what decides the labels, and what a case's record says of both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.assurance.case_trust import CaseTrust
from medseg.bundle.configs.deciding import takes_missing_channels
from medseg.bundle.load import Bundle
from medseg.cases.batch import Job, Judge, Segmenter
from medseg.cases.outputs import OutputOptions
from medseg.cases.record import settings_hash
from medseg.cases.scope import Scope
from medseg.config import read_json
from medseg.errors import BundleError, DataError
from medseg.inference.evidence import CaseEvidence, label_evidence
from medseg.inference.settings import PredictOptions
from medseg.io.behind import content_digest
from medseg.types import Affine


def make_job(bundle: Bundle, outputs: OutputOptions, options: PredictOptions, *, anyway: bool, count: int) -> Job:
    """All that a run over cases needs; the network is made when the first case has been read.

    Args:
        bundle: as its files show it.
        outputs, options: what is written, and how it is predicted.
        anyway: predict cases of another modality, too.
        count: cases, so that an engine is timed where it is worth it.
    """

    model = model_facts(bundle, options.fold)
    trust = read_trust(bundle, model["weights_sha256"])

    def segmenter() -> Segmenter:
        from medseg.bundle.predictor import make_segmenter  # torch is imported here

        temperature = (1.0 if trust is None else trust.temperature) if outputs.uncertainty else None
        return make_segmenter(
            bundle, options, cases=count, probabilities=outputs.probabilities, confidence=trust is not None,
            temperature=temperature,
        )  # fmt: skip

    gaps = takes_missing_channels(bundle.config, bundle.plan)
    return Job(
        segmenter=segmenter,
        labels=bundle.labels,
        model=model,
        options=outputs,
        request=options.request() | {"bundle": deciding_facts(bundle, options)},
        codes=label_codes(bundle),
        scope=scope_of(bundle),
        anyway=anyway,
        normalization=bundle.config.get("preprocessing_def::normalization") if gaps else (),
        judge=None if trust is None else _judge(bundle, trust),
    )


def read_trust(bundle: Bundle, weights: Mapping[str, str]) -> CaseTrust | None:
    """What `medseg cv` learned of this bundle's trustworthiness, or None where it never did.

    Args:
        bundle: opened.
        weights: file -> SHA-256 of those that predict.

    Raises:
        BundleError: the file is broken, or speaks of other weights: it was copied from another bundle.
    """
    path = bundle.layout.trust
    if not path.is_file() or "preprocessing_def" not in bundle.config:
        return None
    try:
        facts = read_json(path)
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: cannot be read as JSON: {error}; run `medseg cv` again, or delete it") from error
    trust = CaseTrust.of_dict(facts, str(path))
    if other := [name for name, digest in weights.items() if digest not in trust.weights]:
        raise BundleError(
            f"{path}: speaks of other weights than {other[0]}: it was learned of another bundle, or before these weights "
            f"were trained. Run `medseg cv {bundle.folder}`, or delete the file to predict without"
        )
    if missing := [name for value, name in bundle.labels.items() if value and value not in trust.labels]:
        raise BundleError(f"{path}: says nothing of the label {missing[0]!r}; run `medseg cv` again, or delete it")
    return trust


def _judge(bundle: Bundle, trust: CaseTrust) -> Judge:
    values = bundle.label_values

    def judge(
        label: NDArray[np.integer], affine: Affine, sums: Mapping[str, NDArray[np.float64]], image: Mapping[str, float]
    ) -> Mapping[int, dict[str, Any]]:
        return trust.verdicts(CaseEvidence(label_evidence(label, affine, values, sums), image))

    return judge


def model_facts(bundle: Bundle, fold: int | None = None) -> dict[str, Any]:
    """Name, version and SHA-256 of the weights.

    Raises:
        BundleError: a weight file is missing.
    """
    from medseg.bundle.weights import remedy_of, sha256_of

    files = bundle.files_for(fold)
    missing = [path for path in files if not path.is_file()]
    if missing:
        raise DataError(f"{missing[0]} is missing: {remedy_of(missing[0])}")
    return {
        "name": bundle.name,
        "version": bundle.version,
        "weights_sha256": {str(path.relative_to(bundle.folder)): sha256_of(path) for path in files},
    }


def deciding_facts(bundle: Bundle, options: PredictOptions) -> dict[str, Any]:
    """Everything in the bundle beside its weights that may change what a case's files hold, for `--continue`.

    The whole inference.json rather than a list of keys: what is forgotten in a list would keep stale labels.
    """
    from medseg.bundle.weights import sha256_of

    code = sorted(path for path in bundle.folder.rglob("*.py") if path.is_file())
    facts: dict[str, Any] = {
        # but for where the bundle lies: a trusted one is read from a private copy, which is another in every process
        "inference": {key: value for key, value in bundle.config.raw.items() if value != str(bundle.folder)},
        "labels": {str(value): name for value, name in bundle.labels.items()},
        "channels": {str(channel): name for channel, name in bundle.channels.items()},
        "plan": {} if bundle.plan is None else bundle.plan.inference,
        "codes": label_codes(bundle),
        "code": {path.relative_to(bundle.folder).as_posix(): content_digest(path) for path in code},
    }
    if bundle.layout.trust.is_file():
        facts["trust"] = content_digest(bundle.layout.trust)
    if options.fast:
        from medseg.bundle.low_resolution import settings_of

        coarse = bundle.folder / str(settings_of(bundle)["checkpoint"])
        facts["low_resolution"] = sha256_of(coarse) if coarse.is_file() else ""
    return {key: settings_hash({"": value}) for key, value in facts.items()}


def scope_of(bundle: Bundle) -> Scope:
    """What the bundle was made with, for warnings: its modalities, and the fingerprint that planning measured."""
    entries = (bundle.config.raw.get("preprocessing_def") or {}).get("normalization") or []
    scaled = {i for i, entry in enumerate(entries) if isinstance(entry, dict) and entry.get("kind") == "zscore"}
    if bundle.plan is not None:
        return Scope(bundle.channels, bundle.plan.fingerprint, frozenset(scaled))
    image = bundle.metadata.get("network_data_format", {}).get("inputs", {}).get("image", {})
    return Scope({**bundle.channels, -1: str(image.get("modality", ""))})


def label_codes(bundle: Bundle) -> dict[str, Any]:
    """DICOM codes per label name from the bundle's configs/labels.json, where it has one."""

    path = bundle.layout.label_codes
    if not path.is_file():
        return {}
    try:
        entries = read_json(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {error}") from error
    listed = entries.values() if isinstance(entries, dict) else entries
    return {str(entry["name"]): entry["codes"] for entry in listed if "codes" in entry}
