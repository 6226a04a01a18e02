"""What `predict_bundle` was asked for, as one record: it goes to a child process, to workers and to the cases alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from medseg.bundle.configs.deciding import takes_missing_channels
from medseg.bundle.load import Bundle, Trust
from medseg.cases.anonymous import Mask, anonymous
from medseg.cases.outputs import OutputOptions, check_outputs
from medseg.devices import choose_device
from medseg.errors import ConfigError
from medseg.inference.settings import PredictOptions
from medseg.io import Case, find_inputs
from medseg.types import FilePath

FORMATS = (".nii.gz", ".nii", ".nrrd", ".seg.nrrd", ".mha", ".dcm")


class Words(TypedDict, total=False):
    """What `medseg.predict` takes by name beside its arguments: the fields of `OutputOptions` and of `Asked`, by their names."""

    suffix: str
    one_file_per_label: bool
    probabilities: bool
    preview: bool
    statistics: bool
    resume: bool
    anonymous_names: bool
    anyway: bool
    uncertainty: bool


@dataclass(frozen=True)
class Asked:
    """What a run was asked for, but for the bundle and the inputs.

    Args:
        outputs: what is written for each case, and where.
        options: how to predict.
        trust: let the bundle run code that is not on the allow-list; see `load_bundle`.
        anonymous_names: name cases by a hash of the input's bytes, in files and messages, since file names often name people.
        anyway: predict cases of another modality than the model's, too.
    """

    outputs: OutputOptions
    options: PredictOptions = field(default_factory=PredictOptions)
    trust: Trust = False
    anonymous_names: bool = False
    anyway: bool = False

    @classmethod
    def of(cls, folder: FilePath, options: PredictOptions | None, trust: Trust, words: Mapping[str, Any]) -> Asked:
        """From what `predict_bundle` takes.

        Raises:
            ConfigError: a format that is not written, a device that is not there, or an option out of its range.
        """
        own = {name: value for name, value in words.items() if name in ("anonymous_names", "anyway")}
        outputs = OutputOptions(Path(folder), **{name: value for name, value in words.items() if name not in own})
        if not outputs.suffix.startswith("."):
            outputs = dataclasses.replace(outputs, suffix=f".{outputs.suffix}")
        if outputs.suffix not in FORMATS:
            raise ConfigError(f"format {outputs.suffix!r}: expected one of {', '.join(FORMATS)}")
        options = options or PredictOptions()
        options.check()
        if options.device not in ("auto", "cpu"):
            choose_device(options.device)  # before anything is read or made
        return cls(outputs, options, trust, **own)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, without `trust`, which may be a question to the user."""
        found = dataclasses.asdict(dataclasses.replace(self, trust=False))
        del found["trust"]
        return found | {"outputs": found["outputs"] | {"folder": str(self.outputs.folder)}}

    @classmethod
    def from_dict(cls, found: Mapping[str, Any], trust: Trust) -> Asked:
        """Of `to_dict`, after a journey as JSON."""
        outputs, options = dict(found["outputs"]), dict(found["options"])
        if options.get("mirror") is not None:
            options["mirror"] = tuple(options["mirror"])
        return cls(
            OutputOptions(Path(outputs.pop("folder")), **outputs),
            PredictOptions(**options),
            trust,
            bool(found["anonymous_names"]),
            bool(found["anyway"]),
        )

    def cases(self, bundle: Bundle, words: Sequence[FilePath]) -> tuple[list[Case], Mask | None]:
        """The cases that words on a command line mean, and what hides their names where that was asked for.

        Raises:
            DataError: no input, or outputs that would replace one another or an input.
        """
        gaps = takes_missing_channels(bundle.config, bundle.plan)
        with Mask([], [], words).over_messages() if self.anonymous_names else nullcontext():
            cases = find_inputs(words, channels=bundle.channels, gaps=gaps)
        mask = None
        if self.anonymous_names:
            renamed = anonymous(cases)
            cases, mask = renamed, Mask(cases, renamed, words)
        check_outputs(cases, bundle.labels, self.outputs)
        return cases, mask
