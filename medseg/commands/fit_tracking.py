"""Where `medseg fit` records its runs: an address comes from the user's own words, never from the bundle."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from medseg.config import ABSENT, look_up, steps_of
from medseg.errors import ConfigError

log = logging.getLogger(__name__)

ADDRESS = "train::trainer::tracking_uri"
VARIABLE = "MLFLOW_TRACKING_URI"
# Keys by which tracking handlers of MONAI and MLflow are given an address or a place for files.
ADDRESS_KEYS = frozenset({"tracking_uri", "registry_uri", "artifact_location", "artifact_uri", "artifact_path"})


def users_address(bundle: Mapping[str, Any], stacked: Mapping[str, Any], overrides: Mapping[str, Any]) -> str | None:
    """The tracking address that the user typed, on the command line or in a stacked file; None where there is none.

    Args:
        bundle: the bundle's train.json as it is.
        stacked: the same with the user's files and overrides.
        overrides: "key::path" -> value, as typed.

    Raises:
        ConfigError: the address is no plain text, such as a reference into the bundle.
    """
    wanted = look_up(stacked, ADDRESS)
    typed = any(steps_of(key) == steps_of(ADDRESS) for key in overrides)
    if wanted in (ABSENT, None) or (not typed and wanted == look_up(bundle, ADDRESS)):
        return None
    if not isinstance(wanted, str) or wanted.startswith(("@", "$", "%")):
        raise ConfigError(f"{ADDRESS} is {wanted!r}; expected the address itself, or set {VARIABLE}")
    return wanted


def without_addresses(config: Mapping[str, Any], *, quiet: bool = False) -> dict[str, Any]:
    """A configuration without any tracking address; a warning names the ones that a bundle brought, unless `quiet`."""
    found: list[str] = []
    cleaned: dict[str, Any] = _cleaned(config, "", found)
    if found and not quiet:
        log.warning(
            "the bundle names a tracking address (%s); it is not used. Set %s, or type %s=ADDRESS, to record runs elsewhere",
            ", ".join(found), VARIABLE, ADDRESS,
        )  # fmt: skip
    return cleaned


def _cleaned(node: object, place: str, found: list[str]) -> Any:
    if isinstance(node, Mapping):
        kept = {}
        for key, value in node.items():
            path = f"{place}::{key}" if place else str(key)
            if key in ADDRESS_KEYS:
                if value is not None:
                    found.append(path)
                continue
            kept[key] = _cleaned(value, path, found)
        return kept
    if isinstance(node, list):
        return [_cleaned(value, f"{place}::{number}", found) for number, value in enumerate(node)]
    return node


@contextmanager
def tracking_at(address: str | None) -> Iterator[None]:
    """Let the runs of a block, and the processes that it starts, be recorded at an address; None changes nothing."""
    if address is None:
        yield
        return
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = address
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = before
