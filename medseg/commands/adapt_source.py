"""What `medseg adapt` starts from: a bundle, or a trained nnU-Net folder that is imported on the way."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from medseg.bundle.load import Bundle, Trust, load_bundle
from medseg.bundle.weights import read_state_dict
from medseg.config import TARGET
from medseg.errors import BundleError
from medseg.planning.plan import Plan

from .adapt_facts import read_pretraining

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Source:
    """An opened source.

    Args:
        name: for messages.
        plan: of the bundle.
        network: `network_def` of what it trains.
        preprocessing: its `preprocessing_def`.
        state: weights under the network's names.
        names: of the network's outputs, in order.
        pretraining: its record, where the weights were pretrained.
    """

    name: str
    plan: Plan
    network: dict[str, Any]
    preprocessing: dict[str, Any]
    state: Mapping[str, Tensor]
    names: tuple[str, ...]
    pretraining: dict[str, Any] | None

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the image channels, in order."""
        return tuple(name for _, name in sorted(self.plan.channels.items()))

    @property
    def foreign(self) -> bool:
        """Whether its preprocessing is another program's, which a plan's spacing and normalization do not say."""
        return self.preprocessing.get(TARGET) != "medseg.components.Preprocessing"


def open_source(source: Path | str, trust: Trust = False) -> Source:
    """Open a bundle, or import a trained nnU-Net folder.

    Raises:
        BundleError: no bundle, weights alone, or a bundle without plan or weights.
    """
    path = Path(source)
    if path.is_file() and path.suffix in (".pt", ".pth", ".ckpt", ".safetensors"):
        raise BundleError(
            f"{path}: weights alone do not say for which spacing, normalization, channels and classes they are; name the bundle "
            "that they belong to, or plan the data and start with `medseg fit BUNDLE --init-from FILE`"
        )
    with ExitStack() as stack:
        if (path / "plans.json").is_file() and (path / "dataset.json").is_file():
            from .import_nnunet import import_nnunet

            imported = Path(stack.enter_context(TemporaryDirectory())) / "imported"
            import_nnunet(path, imported)
            return _of(load_bundle(imported, trust), str(path))
        return _of(load_bundle(source, trust), str(source))


def _of(bundle: Bundle, name: str) -> Source:
    plan = bundle.plan
    if plan is None:
        raise BundleError(f"{name}: has no plan.json, so that nothing says what its classes and channels are called")
    path = bundle.files_for(None)[0]
    network = bundle.own_network_def
    return Source(
        name=name,
        plan=plan,
        network=dict(network),
        preprocessing=dict(bundle.config.raw["preprocessing_def"]),
        state=read_state_dict(path),
        names=_output_names(plan),
        pretraining=read_pretraining(bundle.layout),
    )


def _output_names(plan: Plan) -> tuple[str, ...]:
    from medseg.bundle.configs.inference import channel_names

    return tuple(channel_names(plan))
