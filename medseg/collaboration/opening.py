"""From a site's folder to its party: what every process of a split job does first."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg.errors import ConfigError

from .cut import WIRES, Defence
from .half import Training
from .image_site import ImageSite
from .label_site import LabelSite
from .patient_files import find_patients
from .site_images import SiteImages
from .sites import Site, check_definition, read_site
from .split_settings import read_settings

PURPOSES = ("train", "predict")


@dataclass(frozen=True)
class SplitJob:
    """What every site of a split job is told; JSON-ready.

    Args:
        digest: see `definition_digest`.
        label_site, image_sites: names.
        cases: patients, by name: those that train, or that are predicted.
        purpose: `train` or `predict`.
        overrides: "key::path" -> value of train.json.
        wire: a name of `WIRES`.
        timeout_s: seconds that a site has for an answer.
        allow_missing: zeros for a patient's missing channels.
        keep_every: steps between two states that every site keeps on its disk, to go on from.
        overwrite: forget another training that a site holds.
    """

    digest: str
    label_site: str
    image_sites: Sequence[str]
    cases: Sequence[str]
    purpose: str = "train"
    overrides: Mapping[str, Any] = field(default_factory=dict)
    wire: str = "float32"
    timeout_s: float = 600.0
    allow_missing: bool = False
    keep_every: int = 1
    overwrite: bool = False

    @property
    def training(self) -> Training:
        """What the sites note of a training, so that only the same one is gone on with."""
        facts = [
            self.digest,
            self.label_site,
            sorted(self.cases),
            sorted(self.overrides.items()),
            self.wire,
            self.allow_missing,
        ]
        mark = hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()[:16]
        return Training(mark, tuple(self.cases), self.overwrite)

    def check(self) -> None:
        """Refuse what no site would do. Raises ConfigError."""
        if self.wire not in WIRES:
            raise ConfigError(f"the wire's number format is {self.wire!r}; expected one of {', '.join(WIRES)}")
        if self.keep_every < 1:
            raise ConfigError(f"a state is kept every {self.keep_every} steps; expected 1 or more")
        if self.purpose not in PURPOSES:
            raise ConfigError(
                f"the job asks for {self.purpose!r}; a site sends features and gradients to {' or '.join(PURPOSES)}, nothing else"
            )


def _site(folder: Path, job: SplitJob, role: str) -> Site:
    """What a folder says of its site, the same version and role as the job's."""
    job.check()
    site = read_site(folder)
    check_definition(folder, job.digest, site.name)
    if site.role != role:
        raise ConfigError(
            f"site {site.name!r} has the role {site.role!r} in its site.json, the job asks it for {role}; one site has the labels "
            f"({job.label_site}), all others have images"
        )
    return site


def open_image_site(folder: Path, job: SplitJob) -> ImageSite:
    """The party of a site without labels.

    Raises:
        BundleError: another version of the bundle; ConfigError: a job that asks for more than site.json lets go; DataError.
    """
    site = _site(folder, job, "images")
    settings = read_settings(folder, job.label_site, job.overrides)
    images = SiteImages(find_patients(Path(site.data_folder), site.channels), settings.place(site.name))
    defence = Defence(**site.settings.get("defence", {}))
    levels = site.settings.get("levels", settings.sent[site.name])
    party = ImageSite(site.name, images, settings, wire=job.wire, defence=defence, folder=folder, levels=levels)
    party.half.every, party.half.training = job.keep_every, job.training
    return party


def open_label_site(folder: Path, job: SplitJob) -> LabelSite:
    """The party of the site with the labels. Raises as `open_image_site`."""
    site = _site(folder, job, "labels")
    settings = read_settings(folder, job.label_site, job.overrides)
    cases = find_patients(Path(site.data_folder), site.channels, labels=True)
    training = job.cases if job.purpose == "train" else ()
    party = LabelSite(cases, settings, training, wire=job.wire, folder=folder)
    party.half.every, party.half.training = job.keep_every, job.training
    return party
