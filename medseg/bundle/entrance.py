"""Values of a stranger's bundle that decide what is computed: their types and ranges, before anything is built on them."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from medseg.errors import BundleError
from medseg.layout import Layout
from medseg.planning.plan import Plan

if TYPE_CHECKING:
    from medseg.inference.settings import LabelSettings

MOST_VOXELS = 1 << 31  # of one window
MOST_LABELS = 1 << 32  # values that a label map can hold
MODES = ("gaussian", "constant", "nnunet")


def is_number(value: object) -> bool:
    """A real number of Python or numpy; True and False are none."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def window_extents(value: object, whose: str) -> tuple[int, ...]:
    """Voxels of the sliding window from what a configuration gives for them.

    Raises:
        BundleError: no list of two or three whole numbers above 0, or a window that no memory holds.
    """
    extents: list[Any] = list(value) if isinstance(value, (list, tuple)) else []
    whole = [is_number(extent) and 1 <= extent <= 65536 and extent == int(extent) for extent in extents]
    if len(extents) not in (2, 3) or not all(whole):
        raise BundleError(
            f"{whose} is {str(value)[:80]!r}, expected two or three whole numbers above 0, such as [96, 96, 96]"
        )
    if math.prod(int(extent) for extent in extents) > MOST_VOXELS:
        raise BundleError(f"{whose} is {extents}, a window of more than {MOST_VOXELS} voxels")
    return tuple(int(extent) for extent in extents)


def inferer_fault(settings: Mapping[str, Any]) -> str | None:
    """What is wrong with overlap, sw_batch_size or mode, as `key is value, expected ...`, or None."""
    overlap, batch, mode = settings["overlap"], settings["sw_batch_size"], settings["mode"]
    each = overlap if isinstance(overlap, (list, tuple)) else [overlap]
    if not 1 <= len(each) <= 3 or not all(is_number(part) and 0 <= part < 1 for part in each):
        return f"overlap is {str(overlap)[:80]!r}, expected a number from 0 to below 1"
    if isinstance(batch, bool) or not isinstance(batch, int) or not 1 <= batch <= 100_000:
        return f"sw_batch_size is {str(batch)[:80]!r}, expected a whole number above 0"
    if str(getattr(mode, "value", mode)) not in MODES:
        return f"mode is {str(mode)[:80]!r}, expected {' or '.join(MODES)}"
    return None


def outputs_fault(settings: LabelSettings, plan: Plan | None) -> str | None:
    """Why the label values of inference.json cannot be those of the network's outputs, or None.

    Example:
        >>> outputs_fault(LabelSettings((32, 32, 32), label_values=(0, 1, 1)), None)
        'postprocessing: labels names 1 twice; expected one value for each output'
    """
    values = settings.label_values
    if values is None:
        return None
    if not values or any(not 0 <= value < MOST_LABELS for value in values):
        return f"postprocessing: labels is {str(list(values))[:80]}, expected whole numbers from 0 to {MOST_LABELS - 1}"
    twice = next((value for place, value in enumerate(values) if value in values[:place]), None)
    if twice is not None and not settings.regions:
        return f"postprocessing: labels names {twice} twice; expected one value for each output"
    if plan is None:
        return None
    if settings.regions != bool(plan.regions):
        return "postprocessing: regions differs from plan.json, which " + ("has some" if plan.regions else "has none")
    outputs = outputs_of(plan)
    if len(values) != outputs:
        return f"postprocessing: labels has {len(values)} values, plan.json names {outputs} outputs"
    unknown = [value for value in values if value not in plan.labels]
    if unknown and outputs == len(plan.labels):
        return f"postprocessing: labels names {unknown[0]}, which plan.json does not"
    return None


def outputs_of(plan: Plan) -> int:
    """Channels that the network of a plan gives."""
    return len(plan.regions) or int(plan.network.get("out_channels", len(plan.labels)))


def refuse_other_channels(plan: Plan, network_def: object, file: str, layout: Layout) -> None:
    """The network of a configuration takes the channels and gives the outputs that plan.json names.

    Args:
        network_def: as the file has it; what is no table of plain values is not judged here.

    Raises:
        BundleError: it does not; names both values.
    """
    for key, what, count in (
        ("in_channels", "channels", len(plan.channels)),
        ("out_channels", "outputs", outputs_of(plan)),
    ):
        found = network_def.get(key, count) if isinstance(network_def, Mapping) else count
        if is_number(found) and found != count:
            raise BundleError(
                f"{file}: network_def::{key} is {found}, {layout.plan} names {count} {what}; correct one of them, or plan anew"
            )


def refuse_disagreement(plan: Plan, metadata: Mapping[str, Any], layout: Layout) -> None:
    """plan.json and metadata.json name as many channels and outputs.

    Raises:
        BundleError: they do not.
    """
    formats = metadata.get("network_data_format", {})
    for side, tensor, count in (
        ("inputs", "image", len(plan.channels)),
        ("outputs", "pred", len(plan.regions) or len(plan.labels)),
    ):
        found = formats.get(side, {}).get(tensor, {}).get("num_channels", count)
        if found != count:
            raise BundleError(
                f"{layout.metadata}: network_data_format::{side}::{tensor} has {found} channels, {layout.plan} names {count}; "
                "correct one of them, or plan anew"
            )
