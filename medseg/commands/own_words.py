"""Parts of the user's own in a plan or a training: a project folder, and components named on the command line or in a --config file.

What the bundle's own files say was judged before. What these words add counts as the user's own, and runs.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.bundle.configs.inference import SHARED_KEYS
from medseg.bundle.opening.own_packages import KEY as KEY
from medseg.bundle.opening.own_packages import Project, named_project, project_of_files, run_files
from medseg.bundle.opening.parser import check_config
from medseg.bundle.opening.trusted import TrustedConfig
from medseg.config import TARGET, look_up, read_json
from medseg.layout import Layout
from medseg.networks import MIXERS, PRESETS
from medseg.own_parts import import_project

log = logging.getLogger(__name__)
DIGEST = "project_sha256"
# Components that look names up in the project's tables.
ASKING = ("train::dataset", "train::module", "validate::dataset")


@dataclass(frozen=True)
class OwnWords:
    """What a command named beside the bundle.

    Args:
        overrides: without the project.
        files: stacked on train.json.
        project: the folder of the user's own code, or None.
    """

    overrides: Mapping[str, Any]
    files: Sequence[Path]
    project: Project | None

    @classmethod
    def of(cls, overrides: Mapping[str, Any] | None, files: Sequence[Path]) -> OwnWords:
        """Find the project among them, and let its modules be found.

        Raises:
            ConfigError: the folder cannot be a project.
        """
        words = dict(overrides or {})
        project = named_project(words.pop(KEY)) if KEY in words else project_of_files(list(files))
        if project is not None:
            project.activate()
            import_project(project.name)  # what is wrong with it is told before anything else is looked at
        return cls(words, files, project)

    @property
    def named(self) -> bool:
        """Whether any code is named: a project, or a component."""
        return self.project is not None or any(
            _names_component(each) for each in (*self.overrides.items(), *map(read_json, self.files))
        )

    def prepared(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """A resolved train.json whose components know the project, and whose optimizer is made later, of parameters."""
        made = copy.deepcopy(dict(config))
        optimizer = look_up(made, "train::module::optimizer")
        if isinstance(optimizer, dict) and TARGET in optimizer:
            optimizer.setdefault("_mode_", "callable")
        if self.project is None:
            return made
        made = with_project(made, self.project.name) | {DIGEST: self.project.digest}
        network = made.get("network_def")
        if isinstance(network, dict) and asks(network):
            network[KEY] = self.project.name
        return made

    def runs(self, config: Mapping[str, Any]) -> bool:
        """Whether a prepared configuration needs more than a stranger's may do, because of what is named here."""
        return self.named and bool(check_config(config))

    def config(self, folder: Path, config: Mapping[str, Any], opened: TrustedConfig | None) -> TrustedConfig:
        """The configuration as MONAI's parser builds it, with the project's code in the place of any of the bundle.

        Args:
            folder: the bundle.
            config: prepared.
            opened: the bundle's own train.json, where that is trusted.
        """
        inventory = run_files(folder, self.project, None if opened is None else opened.inventory)
        return TrustedConfig(dict(config), inventory, source=f"{Layout(folder).train} with your own parts")


def with_project(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A train.json whose components look names up in a project's tables too."""
    made = copy.deepcopy(dict(config)) | {KEY: name}
    for place in ASKING:
        component = look_up(made, place)
        if isinstance(component, dict):
            component[KEY] = f"@{KEY}"
    return made


def _names_component(value: object) -> bool:
    if isinstance(value, Mapping):
        return TARGET in value or any(_names_component(part) for part in value.values())
    if isinstance(value, tuple):  # an override
        return str(value[0]).endswith(TARGET) or _names_component(value[1])
    return isinstance(value, list) and any(_names_component(part) for part in value)


def asks(network: Mapping[str, Any]) -> bool:
    """Whether a network of ours (or a plan's, which names no target) takes its preset or its mixer from the project."""
    if not str(network.get(TARGET, ".build_network")).endswith(".build_network"):
        return False
    return (network.get("mixer") or "identity") not in MIXERS or (network.get("preset") or "segmamba") not in PRESETS


def code_for_prediction(config: Mapping[str, Any]) -> bool:
    """Whether the network or the preprocessing of a training is more than what a stranger's bundle may name."""
    return bool(check_config({key: config[key] for key in SHARED_KEYS if key in config}))


def tell_other_code(folder: Path, fold: int, config: Mapping[str, Any], others: Sequence[int]) -> None:
    """Warn where a fold with weights was trained with another content of the project's folder."""
    for other in others:
        record = Layout(folder).run(other).config
        before = read_json(record).get(DIGEST) if record.is_file() else None
        if other != fold and before and config.get(DIGEST) and before != config[DIGEST]:
            log.warning(
                "%s: the code in %s changed since fold %d was trained; the bundle keeps the new one for all folds",
                folder.name,
                config[KEY],
                other,
            )
