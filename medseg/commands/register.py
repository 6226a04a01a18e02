"""`medseg bundle register`: a cleaned copy of a bundle goes to the MLflow registry."""

from __future__ import annotations

import logging
import re
import tempfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion, Version

from medseg.bundle.catalogue import find_bundle
from medseg.bundle.configs.metadata import read_metadata
from medseg.errors import BundleError
from medseg.interruption import run_to_the_end
from medseg.io.atomic import vanishing
from medseg.layout import Layout, bundle_name
from medseg.tracking.mlflow_registry import log_bundle

from .pack import write_clean_copy

log = logging.getLogger(__name__)
OWN = {"torch": "pytorch_version", "monai": "monai_version", "numpy": "numpy_version"}


def requirements(metadata: dict[str, Any]) -> list[str]:
    """Exact pip requirements from metadata.json, the versions the bundle was made with.

    A server that serves the model hands these lines to pip, so that each must be a name and versions from the index:
    `name[extra]` and a version or specifiers such as `>=1.0,<2`. Builds (`+cu130`), which no index has, are left off.

    Raises:
        BundleError: an address, an option, a path, a marker or a line break; the message names the entry.
    """
    table: dict[Any, Any] = {package: metadata[key] for package, key in OWN.items() if key in metadata}
    listed = metadata.get("required_packages_version", {})
    if not isinstance(listed, dict):
        raise BundleError(
            f"metadata.json: required_packages_version is {listed!r}; expected package names and versions"
        )
    lines = sorted({requirement_line(package, version) for package, version in (table | listed).items()})
    names = [re.split(r"[\[=<>!~]", line)[0] for line in lines]
    strangers = [name for name in names if not _is_installed(name)]
    if strangers:
        log.warning(
            "whoever serves this model will install %s, not installed here; look at them first", ", ".join(strangers)
        )
    return lines


def requirement_line(package: object, version: object) -> str:
    """One requirement that pip takes from its index.

    Raises:
        BundleError: it would be anything else.

    Example:
        >>> requirement_line("nibabel", "5.3.2"), requirement_line("monai[nibabel]", ">=1.6,<2")
        ('nibabel==5.3.2', 'monai[nibabel]<2,>=1.6')
    """
    shown = f"metadata.json: the requirement {package!r}: {version!r}"
    if not isinstance(package, str) or not isinstance(version, str):
        raise BundleError(f"{shown} is no package name with a version; write both as text")
    if not re.fullmatch(r"[\x21-\x7e]+", package) or not re.fullmatch(r"[\x20-\x7e]+", version):
        raise BundleError(f"{shown} holds blanks, line breaks or foreign letters; write a plain name and version")
    try:
        text = str(Version(version).public)
        specifier = f"=={text}"
    except InvalidVersion:
        specifier = version.strip()
    try:
        parsed = Requirement(f"{package}{specifier}")
    except InvalidRequirement as error:
        raise BundleError(f"{shown} is no plain requirement ({str(error).splitlines()[0]})") from error
    name_only = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*(\[[A-Za-z0-9._,-]*\])?", package)
    if parsed.url or parsed.marker or not name_only or not str(parsed.specifier) or "===" in specifier:
        raise BundleError(f"{shown} is more than a package's name and its versions; only those are registered")
    extras = f"[{','.join(sorted(parsed.extras))}]" if parsed.extras else ""
    return f"{parsed.name}{extras}{parsed.specifier}"


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except (PackageNotFoundError, ValueError):
        return False
    return True


def register_bundle(
    path_or_name: str | Path,
    *,
    name: str | None = None,
    alias: str = "champion",
    tracking_uri: str | None = None,
) -> dict[str, Any]:
    """Log a bundle without results, data paths and case names, register it, and set an alias.

    Args:
        path_or_name: the bundle.
        name: registered name; by default the bundle's.
        alias: alias of the new version.
        tracking_uri: by default `MLFLOW_TRACKING_URI`, then runs/mlflow.db in the bundle.

    Raises:
        BundleError: the bundle has no weights yet.
    """
    folder = find_bundle(path_or_name)
    layout = Layout(folder)
    if not (layout.weights.is_file() or layout.safetensors.is_file()):
        raise BundleError(f"{layout.weights} is missing: train the bundle before it is registered")
    metadata = read_metadata(folder)
    with vanishing(tempfile.mkdtemp()) as place:
        copy = write_clean_copy(folder, place / bundle_name(folder))
        run_to_the_end()  # a version that is registered would be registered twice by the same command
        return log_bundle(
            copy,
            name or bundle_name(folder),
            store=layout.runs,
            alias=alias,
            tracking_uri=tracking_uri,
            params={"bundle_version": metadata.get("version", ""), "task": metadata.get("task", "")},
            requirements=requirements(metadata),
        )
