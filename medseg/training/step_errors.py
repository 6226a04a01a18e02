"""What goes wrong inside a training step or a validation, as one line: which step, whose cases, and what to do."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from medseg.errors import ConfigError, MedsegError, ResourceError
from medseg.inference.windows.memory import is_shortage

# How torch's layers say that their input has hardly any voxels left.
_TOO_SMALL = re.compile(
    r"expected more than 1|can't be greater than actual input size|output size is too small"
    r"|padding size should be less than",
    re.IGNORECASE,
)
WHERE = "MEDSEG_DEBUG=1 shows where it happened"


class NotFiniteError(ConfigError):
    """The loss of a step is infinite or not a number."""


@dataclass(frozen=True)
class Place:
    """What a training is at.

    Args:
        what: `training step 12`, `validation`.
        cases: names of the cases in the batch.
        shape: (B, C, *space) of the batch's images; empty where they are not made yet.
    """

    what: str
    cases: tuple[str, ...]
    shape: tuple[int, ...] = ()

    @classmethod
    def of(cls, what: str, batch: object) -> Place:
        """The place of a batch as the loaders make it."""
        if not isinstance(batch, Mapping):
            return cls(what, ())
        image = batch.get("image")
        names = batch.get("name") or ()
        shape = tuple(image.shape) if isinstance(image, Tensor) else ()
        return cls(what, (names,) if isinstance(names, str) else tuple(str(name) for name in names), shape)

    @property
    def text(self) -> str:
        names = [repr(name) for name in dict.fromkeys(self.cases)]
        whose = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        return f"{self.what} ({'case' if len(names) == 1 else 'cases'} {whose})" if names else self.what

    @property
    def sizes(self) -> str:
        """` with crops of 16 x 16 x 16 in batches of 2`, or nothing."""
        if not self.shape:
            return ""
        extent = " x ".join(str(size) for size in self.shape[2:])
        if self.what == "validation":
            return f" with a volume of {extent}"
        return f" with crops of {extent} in batches of {self.shape[0]}"


def not_finite(value: float, place: Place, learning_rate: float) -> NotFiniteError:
    """The loss became NaN or infinite."""
    return NotFiniteError(
        f"{place.text}: the loss became {value}; take a smaller train::module::learning_rate ({learning_rate:g} now), keep "
        "train::trainer::gradient_clip=1.0, and look at these cases' values"
    )


def explain_step(error: BaseException, place: Place, divisor: Sequence[int] = ()) -> MedsegError:
    """An error raised inside a step, as the one line that is told.

    Args:
        error: what was raised.
        place: where.
        divisor: how much the network shrinks each axis, for the crop that would do.
    """
    if isinstance(error, MedsegError):
        return error
    words = " ".join(str(error).split())[:300] or type(error).__name__
    if is_shortage(error):
        return ResourceError(
            f"{place.text}: memory ran out{place.sizes}; take a smaller batch_size or roi_size, or network_def::checkpointing=true "
            f"({words})"
        )
    if _TOO_SMALL.search(words):
        extent = place.shape[2:]
        enough = [max(2 * step, size) for step, size in zip(divisor, extent, strict=False)]
        hint = f", such as roi_size={enough}" if enough and tuple(enough) != tuple(extent) else ""
        return ConfigError(
            f"{place.text}: too few voxels are left in the network's deepest maps{place.sizes}; take a larger roi_size{hint} "
            f"({words})"
        )
    return MedsegError(
        f"{place.text}: {type(error).__name__}{place.sizes}: {words}; check network_def, roi_size and the loss in "
        f"configs/train.json; {WHERE}"
    )
