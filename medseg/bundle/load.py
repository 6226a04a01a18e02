"""Open a bundle: its network with weights, its preprocessing, labels and window, without running any of its code."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.errors import BundleError, UntrustedBundleError
from medseg.layout import Layout, bundle_name
from medseg.planning.plan import Plan

from .catalogue import find_bundle
from .configs.deciding import label_settings, roi_size
from .configs.metadata import read_metadata
from .opening.parser import SafeConfig, open_config
from .opening.trust import is_trusted, remember

if TYPE_CHECKING:
    import torch

    from medseg.inference.settings import LabelSettings
    from medseg.transforms.preprocessing import Preprocessing


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

    @property
    def version(self) -> str:
        return str(self.metadata.get("version", ""))

    @cached_property
    def plan(self) -> Plan | None:
        """plan.json, or None in a bundle that `medseg plan` did not write."""
        return Plan.read(self.layout.plan) if self.layout.plan.is_file() else None

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
        return roi_size(self.config)

    @cached_property
    def label_settings(self) -> LabelSettings:
        """What decides the labels beside weights and preprocessing, from inference.json alone.

        Raises:
            BundleError: inference.json asks for something that `medseg predict` does not do.
        """
        return label_settings(self.config, self.plan)

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """The very object that training used."""
        if "preprocessing_def" not in self.config:
            raise BundleError(f"{self.layout.inference}: has no preprocessing_def, so medseg did not write this bundle")
        return self.config.get("preprocessing_def")

    @property
    def weight_files(self) -> list[Path]:
        """Files whose networks are averaged; models/model.pt (or .safetensors beside it) unless the config lists some.

        Raises:
            BundleError: a listed file lies outside the bundle.
        """
        listed = self.config.raw.get("models")
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
        return self.config.build("network_def")

    def networks(self) -> list[torch.nn.Module]:
        """One network per weight file, in evaluation mode on the CPU.

        Raises:
            BundleError: a weight file is missing, or belongs to another network.
            UntrustedBundleError: a weight file holds more than tensors.
        """
        from .weights import load_into, read_state_dict

        found = []
        for path in self.weight_files:
            state = read_state_dict(path)
            # an ensemble of different networks names those that are not network_def by their weight files
            member = f"member_networks::{path.relative_to(self.folder).as_posix()}"
            network = self.config.build(member) if member in self.config else self.untrained_network()
            load_into(network, state, path)
            found.append(network.eval())
        return found

    def network(self) -> torch.nn.Module:
        """The first of `networks()`: the only one, unless the bundle is an ensemble."""
        return self.networks()[0]


def load_bundle(path_or_name: str | Path, trust: bool = False) -> Bundle:
    """Open a bundle folder, or a shipped or installed bundle by name.

    A bundle outside the allow-list opens only with `trust`; that decision is recorded with the hash of every file, and
    holds without being repeated until one of them changes.

    Args:
        path_or_name: folder or name.
        trust: let the bundle name any Python object and run any expression, as MONAI itself would.

    Raises:
        BundleError: no such bundle, or a file of it is missing or broken.
        UntrustedBundleError: it wants to run code that is not on the allow-list and `trust` is False.
    """
    folder = find_bundle(path_or_name)
    layout = Layout(folder)
    file = next((path for path in layout.inference_files if path.is_file()), None)
    if file is None:
        raise BundleError(f"{layout.inference} is missing: this bundle cannot predict")
    return Bundle(folder=folder, metadata=read_metadata(folder), config=open_trusted(folder, file, trust))


def open_trusted(folder: Path, file: Path, trust: bool) -> SafeConfig:
    """Open a configuration; where it needs trust, ask the record of earlier decisions, or make one.

    Raises:
        UntrustedBundleError: it needs trust that was never given, or the bundle changed since.
    """
    try:
        return open_config(file, bundle_root=folder)
    except UntrustedBundleError:
        if trust:
            remember(folder)
        elif not is_trusted(folder):
            raise
    return open_config(file, trust=True, bundle_root=folder)
