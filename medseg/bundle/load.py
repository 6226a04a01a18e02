"""Open a bundle: its network with weights, its preprocessing, labels and window, without running any of its code."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.errors import BundleError, MedsegError, UntrustedBundleError
from medseg.layout import Layout, bundle_name
from medseg.planning.plan import Plan
from medseg.selection.averaging import members_of, own_network

from .catalogue import find_bundle
from .configs.deciding import label_settings, roi_size
from .configs.metadata import read_metadata
from .entrance import outputs_fault, refuse_disagreement, refuse_other_channels
from .made_here import own_code, refuse_planned_code
from .opening.inventory import Inventory, take_inventory
from .opening.listing import Shown, to_show
from .opening.parser import SafeConfig, open_config, read_file
from .opening.trust import changes, remember, trusted_copy
from .opening.trusted import TrustedConfig

if TYPE_CHECKING:
    import torch

    from medseg.inference.settings import LabelSettings
    from medseg.transforms.preprocessing import Preprocessing

# False: only what was trusted before; True: yes; a function: is shown the files and raises UntrustedBundleError for no.
Trust = bool | Callable[[Shown], None]
LONGEST = 1000  # characters of a message that quotes a stranger's values


@dataclass
class Bundle:
    """An opened bundle. Cheap until `network()` is called.

    Args:
        folder: the bundle's folder.
        metadata: configs/metadata.json.
        config: configs/inference.json, checked; components are built only when they are asked for.
    """

    folder: Path
    metadata: dict[str, Any]
    config: SafeConfig = field(repr=False)

    @property
    def layout(self) -> Layout:
        return Layout(self.folder)

    @property
    def name(self) -> str:
        return bundle_name(self.folder)

    def of_shown_files(self) -> Bundle:
        """The same bundle, weights included, read from what a trusted one was shown as; itself for any other."""
        root = self.config.root if isinstance(self.config, TrustedConfig) else None
        return self if root is None else dataclasses.replace(self, folder=root)

    @property
    def version(self) -> str:
        return str(self.metadata.get("version", ""))

    @cached_property
    def plan(self) -> Plan | None:
        """plan.json, or None in a bundle that `medseg plan` did not write."""
        return Plan.read(self.layout.plan) if os.path.lexists(self.layout.plan) else None

    @cached_property
    def labels(self) -> dict[int, str]:
        """Label value -> name, background included; the order of the values is the order of the network's channels."""
        if self.plan is not None:
            return dict(self.plan.labels)
        try:
            outputs = self.metadata["network_data_format"]["outputs"]
            names = outputs[next(iter(outputs))].get("channel_def", {})
        except (KeyError, StopIteration, AttributeError) as error:
            raise BundleError(f"{self.layout.metadata}: names no labels (network_data_format::outputs)") from error
        return {int(channel): str(name) for channel, name in names.items()}

    @cached_property
    def channels(self) -> dict[int, str]:
        """Input channel -> modality."""
        if self.plan is not None:
            return dict(self.plan.channels)
        image = self.metadata.get("network_data_format", {}).get("inputs", {}).get("image", {})
        names = image.get("channel_def") or {}
        count = int(image.get("num_channels", len(names) or 1))
        return {channel: str(names.get(str(channel), image.get("modality", "image"))) for channel in range(count)}

    @cached_property
    def roi_size(self) -> tuple[int, ...]:
        """Voxels of the sliding window."""
        return self._named(lambda _: roi_size(self.config), "roi_size")

    @cached_property
    def label_settings(self) -> LabelSettings:
        """What decides the labels beside weights and preprocessing, from inference.json alone.

        Raises:
            BundleError: inference.json asks for something that `medseg predict` does not do.
        """

        def agreeing(_: str) -> LabelSettings:
            settings = label_settings(self.config, self.plan)
            fault = outputs_fault(settings, self.plan)
            if fault:
                raise BundleError(f"{self.config.source}: {fault}; correct it, or plan anew")
            return settings

        return self._named(agreeing, "inferer")

    @property
    def label_values(self) -> list[int]:
        """The label that each output of the network stands for; a name of 0.1, see `label_settings`."""
        values = self.label_settings.label_values
        return sorted(self.labels) if values is None else list(values)

    @property
    def inference_settings(self) -> dict[str, Any]:
        """`label_settings` and the weight files as a table; a name of 0.1."""
        settings = dataclasses.asdict(self.label_settings)
        return {**settings, "models": [str(path.relative_to(self.folder)) for path in self.weight_files]}

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """The very object that training used."""
        if "preprocessing_def" not in self.config:
            raise BundleError(f"{self.layout.inference}: has no preprocessing_def, so medseg did not write this bundle")
        return self.value("preprocessing_def")

    def files_for(self, fold: int | None) -> list[Path]:
        """The weight files that predict together; with a fold, those that were trained without its cases.

        Raises:
            BundleError: a listed file lies outside the bundle, or nothing of this fold is there.
        """
        if fold is None:
            return self.weight_files
        listed = [path for path in self.weight_files if self.layout.fold_models(fold).name in path.parts]
        own = self.layout.fold_weights(fold)
        if not listed and own.is_file():
            return [own]
        if not listed:
            found = sorted(path.parent.name for path in self.layout.models.glob("fold_*/*.pt"))
            raise BundleError(f"{self.folder}: fold {fold} has no weights; there are {', '.join(found) or 'no folds'}")
        return listed

    @property
    def weight_files(self) -> list[Path]:
        """Files whose networks are averaged; models/model.pt (or .safetensors beside it) unless the config lists some.

        Raises:
            BundleError: a listed file lies outside the bundle.
        """
        listed = self.config.raw.get("models")
        if listed is not None and not (isinstance(listed, list) and all(isinstance(name, str) for name in listed)):
            raise BundleError(f"{self.config.source}: models is {str(listed)[:80]!r}, expected a list of file names")
        if not listed:
            return [self.layout.safetensors if self.layout.safetensors.is_file() else self.layout.weights]
        root = self.folder.resolve()
        paths = [self.folder / str(name) for name in listed]
        for path in paths:
            if root not in path.resolve().parents:
                raise BundleError(f"{self.layout.inference}: models names {path}, which lies outside the bundle")
        return paths

    def untrained_network(self) -> torch.nn.Module:
        """`network_def`, built anew."""
        return self._network("network_def")

    def network_of(self, path: Path) -> torch.nn.Module:
        """The network that a weight file belongs to, built anew: `models/model.pt` holds all that are averaged as one."""
        name = path.relative_to(self.folder).as_posix() if self.folder in path.parents else path.name
        member = f"member_networks::{name}"  # an ensemble of 0.1
        if member in self.config:
            return self._network(member)
        definition = self.config.raw.get("network_def")
        single = path in (self.layout.weights, self.layout.safetensors)
        if single or not isinstance(definition, Mapping) or len(members_of(definition)) == 1:
            return self.untrained_network()
        listed = self.config.raw.get("models") or []
        number = listed.index(name) if name in listed else 0
        return self._network(f"network_def::networks::{number}")

    @property
    def own_network_def(self) -> Any:
        """What the bundle itself trains, as a table; `network_def` may average several of these, or others."""
        definition = self.config.raw.get("network_def")
        return own_network(definition) if isinstance(definition, Mapping) else definition

    def value(self, key: str) -> Any:
        """A value or component of inference.json; whatever a stranger's file raises on the way names that file.

        Raises:
            MedsegError: it cannot be worked out, or is not allowed.
        """
        return self._named(self.config.get, key)

    def _named(self, function: Callable[[str], Any], key: str) -> Any:
        source = self.config.source
        try:
            return function(key)
        except MedsegError as error:
            text = " ".join(str(error).split())
            if str(self.folder) in text and text == str(error) and len(text) < LONGEST:
                raise
            whose = "" if str(self.folder) in text else f"{source}: {key}: "
            raise type(error)(f"{whose}{text if len(text) < LONGEST else text[: LONGEST - 3] + '...'}") from error
        except Exception as error:  # references in a circle, to nothing, to what does not fit: any type there is
            what = " ".join(str(error).split())[:160]
            raise BundleError(f"{source}: {key} cannot be worked out: {type(error).__name__}: {what}") from error

    def _network(self, key: str) -> torch.nn.Module:
        import torch

        made = self._named(self.config.build, key)
        if not isinstance(made, torch.nn.Module):
            raise BundleError(f"{self.config.source}: {key} makes a {type(made).__name__}, expected a network")
        return made

    def networks(self, fold: int | None = None) -> list[torch.nn.Module]:
        """One network per weight file, in evaluation mode on the CPU; with a fold, those of `files_for`.

        Raises:
            BundleError: a weight file is missing, or belongs to another network.
            UntrustedBundleError: a weight file holds more than tensors.
        """
        from .weights import load_into, read_state_dict

        found = []
        for path in self.files_for(fold):
            state = read_state_dict(path)
            network = self.network_of(path)
            load_into(network, state, path)
            found.append(network.eval())
        return found

    def network(self) -> torch.nn.Module:
        """What predicts, as one module: the only one of `networks()`, or their average."""
        networks = self.networks()
        if len(networks) == 1:
            return networks[0]
        from medseg.inference.windows.ensemble import AveragedNetwork

        return AveragedNetwork(networks).eval()


def load_bundle(path_or_name: str | Path, trust: Trust = False) -> Bundle:
    """Open a bundle folder, or a shipped or installed bundle by name.

    A bundle outside the allow-list opens only with `trust`; that decision is recorded with the hash of every file, and
    holds without being repeated until one of them changes.

    Args:
        path_or_name: folder or name.
        trust: let the bundle name any Python object and run any expression, as MONAI itself would; a function is shown
            the files first, and raises UntrustedBundleError to refuse.

    Raises:
        BundleError: no such bundle, or a file of it is missing or broken.
        UntrustedBundleError: it wants to run code that is not on the allow-list and `trust` is False.
    """
    folder = find_bundle(path_or_name)
    layout = Layout(folder)
    file = next((path for path in layout.inference_files if os.path.lexists(path)), None)
    if file is None:
        raise BundleError(f"{layout.inference} is missing: this bundle cannot predict")
    config = open_trusted(folder, file, trust)
    shown = config.root if isinstance(config, TrustedConfig) else None
    bundle = Bundle(folder=folder, metadata=read_metadata(shown or folder), config=config)
    if bundle.plan is not None:
        if trust is False and shown is None:
            refuse_planned_code(bundle.plan, layout)
        refuse_disagreement(bundle.plan, bundle.metadata, layout)
        refuse_other_channels(bundle.plan, config.raw.get("network_def"), config.source, layout)
    return bundle


def let_code_be_found(bundle: Bundle) -> None:
    """Let the modules of a bundle's project be imported: those that lie in it, where this user put or trusted them.

    Raises:
        UntrustedBundleError: nobody did.
    """
    opened = bundle.config
    if not isinstance(opened, TrustedConfig):  # the network may need no code where the data do
        opened = open_trusted(bundle.folder, bundle.layout.train, False)
    if isinstance(opened, TrustedConfig):
        opened.ready({})


def open_trusted(folder: Path, file: Path, trust: Trust) -> SafeConfig:
    """Open a configuration; where it needs trust, ask the record of earlier decisions, or make one.

    A trusted configuration reads and runs a private copy of the files that were hashed, never the folder again.

    Raises:
        UntrustedBundleError: it needs trust that was never given, or the bundle changed since.
    """
    try:
        return open_config(file, bundle_root=folder)
    except UntrustedBundleError as refused:
        refusal = refused
    try:
        inventory = own_code(folder) or _consented(folder, trust)
    except UntrustedBundleError as error:
        if trust is not True:
            raise
        return TrustedConfig(read_file(file), None, source=str(file), refusal=error)
    if inventory is None or inventory.copy is None:
        raise refusal
    shown = inventory.copy / file.relative_to(folder)
    return TrustedConfig({**read_file(shown), "bundle_root": str(inventory.copy)}, inventory, source=str(file))


def _consented(folder: Path, trust: Trust) -> Inventory | None:
    """The files that the user agreed to run, now or before; None when nobody was asked."""
    if trust is False:
        return trusted_copy(folder)
    inventory = take_inventory(folder, private_copy=True)
    changed = changes(inventory)
    if changed:
        if callable(trust):
            trust(to_show(inventory, changed))
        remember(inventory)
    return inventory
