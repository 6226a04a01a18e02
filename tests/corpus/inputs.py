"""The whole corpus of volumes, by name."""

from __future__ import annotations

from tests.corpus import dicom_inputs, nifti_inputs, other_inputs
from tests.corpus.entry import Entry

CORPUS: dict[str, Entry] = {
    **{f"nifti: {name}": entry for name, entry in nifti_inputs.BROKEN.items()},
    **{f"nifti: {name}": entry for name, entry in nifti_inputs.LEGITIMATE.items()},
    **{f"label: {name}": entry for name, entry in nifti_inputs.LABELS.items()},
    **other_inputs.ITK,
    **other_inputs.DICOM,
    **dicom_inputs.FROM_REPORTS,
}
BROKEN = [name for name, entry in CORPUS.items() if entry.broken]
LEGITIMATE = [name for name, entry in CORPUS.items() if not entry.broken]
