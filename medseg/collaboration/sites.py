"""What each site holds: `site.json` beside its copy of the bundle, with its role and its data folder."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg.config import read_json
from medseg.errors import BundleError, ConfigError, MedsegError
from medseg.io.atomic import write_json, write_text
from medseg.layout import Layout, SiteFolder

# where a process finds the folders of the sites that it may act for, one folder per name
SITES_VARIABLE = "MEDSEG_SITES"
# what prediction reads of other files too: an override of a training alone would part the two
PLANNED = ("network_def", "preprocessing_def", "labels", "regions")
RESERVED = {"server", "all", "admin"}  # NVFlare's own


@dataclass(frozen=True)
class Site:
    """One participant.

    Args:
        name: letters, digits, `-` and `_`; NVFlare knows the site by it.
        role: `patients` (federated), `images` or `labels` (split).
        data_folder: its data set, on the site's own machine.
        channels: names of the data set's channels that it brings; empty for all.
        settings: what else it was told, JSON-ready (the levels that may leave it, its defences).
    """

    name: str
    role: str
    data_folder: str
    channels: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write `site.json` into the site's folder."""
        write_json(SiteFolder(folder).record, dataclasses.asdict(self))


def read_site(folder: Path) -> Site:
    """The site of a folder.

    Raises:
        BundleError: no `site.json`, or one that lacks a value.
    """
    path = SiteFolder(folder).record
    if not path.is_file():
        raise BundleError(
            f"{folder}: has no {path.name}; set {SITES_VARIABLE} to the folder that holds this site's folder, as planned"
        )
    facts = read_json(path)
    missing = [name for name in ("name", "role", "data_folder") if not facts.get(name)]
    if missing:
        raise BundleError(
            f"{path}: has no {missing[0]!r}; write it as `medseg split plan` or `medseg federate plan` does"
        )
    known = {entry.name for entry in dataclasses.fields(Site)}
    values = {key: value for key, value in facts.items() if key in known}
    return Site(**{**values, "channels": tuple(values.get("channels", ()))})


def check_names(names: Sequence[str]) -> None:
    """Refuse names that NVFlare cannot use, and two sites of one name. Raises ConfigError."""
    for name in names:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name) or name.lower() in RESERVED:
            raise ConfigError(
                f"site {name!r}: expected a name of letters, digits, '-' and '_' that is none of {', '.join(sorted(RESERVED))}"
            )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"two sites are named {twice[0]!r}; each claims the same role, give them names of their own")


def site_folder(name: str) -> Path:
    """The folder of a site that this process acts for.

    Raises:
        BundleError: the variable `MEDSEG_SITES` is not set, or there is no such folder.
    """
    root = os.environ.get(SITES_VARIABLE, "")
    folder = Path(root) / name
    if not root or not folder.is_dir():
        raise BundleError(
            f"site {name!r}: {SITES_VARIABLE} is {root or 'not set'}; set it to the folder that holds {name}/, which "
            "`plan` wrote under runs/sites of the bundle"
        )
    return folder


def definition_digest(folder: Path) -> str:
    """What must be equal at all sites of a job: network, preprocessing, labels and crops of train.json, as 16 hex digits."""
    config = read_json(Layout(folder).train)
    same = {key: config.get(key) for key in (*PLANNED, "roi_size")}
    return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:16]


def check_overrides(overrides: Mapping[str, Any]) -> None:
    """Refuse changes of what all sites and prediction were planned with. Raises ConfigError."""
    for key in overrides:
        first = key.split("::")[0].split("#")[0]
        if first in PLANNED:
            raise ConfigError(f"{key}: {first} is the same for all sites and for prediction; plan again to change it")


def check_definition(folder: Path, wanted: str, name: str) -> None:
    """Refuse a site whose bundle is another version. Raises BundleError."""
    found = definition_digest(folder)
    if found != wanted:
        raise BundleError(
            f"site {name!r} has another version of the bundle ({found}, the job was made with {wanted}); copy runs/sites/{name} "
            "of the planned bundle there again"
        )


def note_failure(folder: Path, error: BaseException) -> None:
    """Leave the cause of a failure in the site's folder, where the command that waits for it looks."""
    text = str(error) if isinstance(error, MedsegError) else f"{type(error).__name__}: {error}"
    write_text(SiteFolder(folder).failure, " ".join(text.split()))


def read_failures(folders: Mapping[str, Path]) -> dict[str, str]:
    """name -> cause, of the sites that left one."""
    paths = {name: SiteFolder(folder).failure for name, folder in folders.items()}
    return {name: path.read_text(encoding="utf-8") for name, path in paths.items() if path.is_file()}


def forget_failures(folders: Mapping[str, Path]) -> None:
    """Remove what an earlier run left."""
    for folder in folders.values():
        SiteFolder(folder).failure.unlink(missing_ok=True)
