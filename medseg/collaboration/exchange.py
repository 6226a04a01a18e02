"""The loop between the sites of a split network. No transport here: calls go to an object, wherever it lives.

Steps are numbered and each may be asked for twice: a reply that was lost is repeated, the step is not.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from medseg.errors import DataError, MedsegError

from .label_site import LabelSite

log = logging.getLogger(__name__)


def begin(label: LabelSite, others: Mapping[str, Any], names: Sequence[str], *, allow_missing: bool = False) -> int:
    """Compare the case lists, tell the geometries, and bring all sites to the last whole step; returns it.

    Raises:
        DataError: a site lacks a patient, or fails; it is named. BundleError: a site holds another training.
    """
    label.half.claim()
    hellos = {name: ask(name, "hello", other.hello) for name, other in others.items()}
    for name, hello in hellos.items():
        missing = sorted(set(names) - set(hello["cases"]))
        if missing and not allow_missing:
            raise DataError(
                f"site {name!r} has no patient {missing[0]!r} ({len(missing)} of {len(names)} are missing there)"
            )
    references = label.prepare(names)
    for name, other in others.items():
        ask(name, "geometry", other.geometry, references, allow_missing)
    common = set(label.half.kept()).intersection(*(hello["steps"] for hello in hellos.values()))
    first = max(common, default=0)
    label.restore(first)
    for name, other in others.items():
        ask(name, "restore", other.restore, first)
    return first


def train(
    label: LabelSite, others: Mapping[str, Any], first: int, progress: Callable[[int, float], None] | None = None
) -> list[float]:
    """Train from a step to the end; returns the losses of all steps.

    Raises:
        DataError: a site failed; site, step and cause are named, and the same command goes on from the last whole step.
    """
    for step in range(first, label.settings.steps):
        crops = label.crops(step)
        told = [dataclasses.asdict(crop) | {"center": list(crop.center)} for crop in crops]
        where = f"step {step}"
        features = {name: ask(name, where, other.forward, step, told) for name, other in others.items()}
        gradients = label.step(step, crops, features)
        for name, other in others.items():
            ask(name, where, other.backward, step, gradients[name])
        if progress is not None:
            progress(step + 1, label.losses[-1])
    label.finish()
    for name, other in others.items():
        ask(name, "finish", other.finish)
    return label.losses


def ask(name: str, what: str, call: Callable[..., Any], *arguments: Any) -> Any:
    """Call another site, once more where its reply was lost; a failure names the site.

    Raises:
        DataError: it failed, or did not answer in time twice.
    """
    for attempt in (1, 2):
        try:
            return call(*arguments)
        except MedsegError:
            raise
        except Exception as error:
            lost = isinstance(error, TimeoutError) or "timed out" in str(error)
            if attempt == 1 and lost:
                log.warning("site %r did not answer in time (%s); asking once more", name, what)
                continue
            raise DataError(
                f"site {name!r}, {what}: {error}; the same command goes on from the last whole step"
            ) from error
    raise AssertionError("unreachable")
