"""A plan: every value that training and prediction need, each with the reason it was chosen.

Written as plan.json into the bundle; nothing is decided again at run time. A person may edit any value afterwards.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg.config import COMPONENTS, TARGET, read_json
from medseg.errors import BundleError, MedsegError
from medseg.io.atomic import write_json

from .plan_check import plan_fault


@dataclass
class Plan:
    """What `medseg plan` decided.

    Args:
        name: snake_case name of the bundle.
        data_folder: absolute path of the dataset at planning time.
        spatial_dims: 2 or 3.
        channels: input channel -> modality, such as {0: "MRI"}.
        labels: label value -> name, background 0 included.
        orientation: axis codes of the network's grid.
        spacing: mm per voxel of the network's grid, in axis order X, Y, Z; a network of slices (2D, along Z) leaves Z as it is.
        roi_size: voxels of a training crop and of a sliding window, two values in 2D.
        batch_size: crops per training step.
        normalization: one entry per channel, see `medseg.transforms.preprocessing.Preprocessing`.
        network: arguments of `medseg.networks.build_network`, without `_target_`.
        optimization: optimizer, learning rate, epochs, steps per epoch and their kin.
        augmentation: settings of the augmentation recipe.
        inference: overlap, window batch and mirroring of prediction.
        folds: number of folds in `splits`.
        splits: per fold {"train": [case names], "val": [case names]}.
        fingerprint: what was measured in the data.
        reasons: value name -> why it is what it is.
        ignore_label: value of voxels that were not annotated, or None.
        regions: overlapping targets, one network output each: {"name", "labels" it unites, "label" it writes into the one
            label map}, later ones over earlier ones; empty where every output is a label of its own.
        low_resolution: spacing, roi_size, batch_size and network of a first, coarse network, or None.
        missing_channels: `error`, or `zero` to train cases that lack a channel with zeros in its place.
        warnings: what the data showed that a person should look at.
        project: package of the user's own parts that lies in the bundle, or None.
        preprocessing: `preprocessing_def` of a foreign model that was adapted, in place of spacing and normalization; or None.
        applied: what the bundle's other files were made with, so that later edits are noticed.
    """

    name: str
    data_folder: str
    spatial_dims: int
    channels: dict[int, str]
    labels: dict[int, str]
    orientation: str
    spacing: list[float]
    roi_size: list[int]
    batch_size: int
    normalization: list[dict[str, Any]]
    network: dict[str, Any]
    optimization: dict[str, Any]
    augmentation: dict[str, Any]
    inference: dict[str, Any]
    folds: int
    splits: list[dict[str, list[str]]]
    fingerprint: dict[str, Any] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    ignore_label: int | None = None
    licence: str = ""
    reference: str = ""
    regions: list[dict[str, Any]] = field(default_factory=list)
    low_resolution: dict[str, Any] | None = None
    missing_channels: str = "error"
    project: str | None = None
    preprocessing: dict[str, Any] | None = None
    applied: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        values = dataclasses.asdict(self)
        unsaid = {name for name in ("project", "preprocessing") if not values[name]}
        return {name: value for name, value in values.items() if name not in unsaid}

    @property
    def network_name(self) -> str:
        """The preset, or the user's own class."""
        return str(self.network.get("preset") or str(self.network.get(TARGET, "")).rpartition(".")[2])

    @property
    def code(self) -> str:
        """The first thing that the plan names and that is none of medseg's own; empty for none."""
        networks = [self.network, (self.low_resolution or {}).get("network", {})]
        named = [self.project, *(each.get(key) for each in networks for key in ("project", TARGET))]
        return next((str(name) for name in named if name and not str(name).startswith(f"{COMPONENTS}.")), "")

    def write(self, path: Path) -> None:
        """Write as JSON, atomically."""
        write_json(path, self.to_dict())

    @staticmethod
    def read(path: Path) -> Plan:
        """Read plan.json.

        Raises:
            BundleError: the file is missing, is no JSON, lacks a value, or contradicts itself.
        """
        try:
            values = read_json(path)
        except FileNotFoundError as error:
            raise BundleError(f"{path} is missing: is this a bundle that `medseg plan` wrote?") from error
        except MedsegError as error:
            raise BundleError(str(error)) from error
        return Plan.of(values, f"{path}: ", "; correct it, or plan anew with `medseg plan`")

    @staticmethod
    def of(values: dict[str, Any], whose: str, cure: str) -> Plan:
        """A plan of what plan.json holds. Raises BundleError with `whose`, what is wrong, and the `cure`."""
        fault = plan_fault(values)
        if fault:
            raise BundleError(f"{whose}{fault}{cure}")
        for table in ("channels", "labels"):
            values[table] = {int(key): name for key, name in values[table].items()}
        known = {entry.name for entry in dataclasses.fields(Plan)}
        return Plan(**{key: value for key, value in values.items() if key in known})

    def explain(self) -> str:
        """What was measured, and the values with their reasons, as text for a terminal."""
        lines = self._measured()
        for key, reason in self.reasons.items():
            value = f"{self.folds} folds" if key == "splits" else json.dumps(getattr(self, key, None))
            lines.append(f"{key} = {value}\n    because {reason}")
        lines += [f"note: {warning}" for warning in self.warnings]
        return "\n".join(lines)

    def _measured(self) -> list[str]:
        """The fingerprint in a line per label."""
        facts = self.fingerprint
        if not facts:
            return []
        extent, spacing, least, most = (
            " x ".join(f"{value:.4g}" for value in facts[key])
            for key in ("median_shape", "median_spacing", "smallest_spacing", "largest_spacing")
        )
        lines = [f"measured: {facts['cases']} cases, median {extent} voxels of {spacing} mm (from {least} to {most})"]
        for value, count in facts["label_cases"].items():
            pieces = facts.get("label_pieces", {}).get(value)
            text = f"  label {value} {self.labels.get(int(value), '')}: in {count} cases, {facts['label_volume_ml'][value]:.3g} ml"
            lines.append(text + (f", {pieces['median']:g} pieces, at most {pieces['most']:g}" if pieces else ""))
        return lines
