"""A software bill of materials of what is installed, in CycloneDX's JSON, without a network.

    python -m medseg.cli.sbom --output sbom.json

Names, versions, licences and package URLs come from the installed packages' own metadata; the hash of a component is that of
its RECORD, the list of its files with their hashes.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import re
import uuid
from datetime import UTC, datetime
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from medseg import __version__

ROOT = "medseg"
SPECIFICATION = "1.5"
# What lies in the package itself and is no Python package: the viewer of the reports, unchanged
VENDORED = [
    {
        "type": "library",
        "bom-ref": "pkg:npm/%40niivue/niivue@0.69.0",
        "name": "@niivue/niivue",
        "version": "0.69.0",
        "purl": "pkg:npm/%40niivue/niivue@0.69.0",
        "licenses": [{"expression": "BSD-2-Clause"}],
        "description": "viewer of volumes in reports and in medseg view (dist/niivue.umd.js)",
        "hashes": [{"alg": "SHA-256", "content": "47b896b77ec4a5be3ef1949c33ad393b6f45629921f326c279000bcf51bdb4af"}],
    }
]


def installed() -> dict[str, importlib.metadata.Distribution]:
    """Every installed package by its normalised name; the first one found is the one that Python imports."""
    found: dict[str, importlib.metadata.Distribution] = {}
    for package in importlib.metadata.distributions():
        name = package.metadata["Name"]
        if name:
            found.setdefault(normalised(name), package)
    return found


def normalised(name: str) -> str:
    """A package's name as indexes compare it.

    Example:
        >>> normalised("PyTorch_Lightning")
        'pytorch-lightning'
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def needs(package: importlib.metadata.Distribution, known: dict[str, Any]) -> list[str]:
    """Names of the installed packages that a package needs here, optional ones included where they are installed."""
    names = set()
    for text in package.requires or []:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        extras = ["", *(package.metadata.get_all("Provides-Extra") or [])]
        applies = requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras)
        if applies and normalised(requirement.name) in known:
            names.add(normalised(requirement.name))
    return sorted(names)


def closure(root: str, known: dict[str, importlib.metadata.Distribution]) -> list[str]:
    """A package and everything that it needs, directly or not."""
    seen: set[str] = set()
    todo = [root] if root in known else []
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += needs(known[name], known)
    return sorted(seen)


def component(name: str, package: importlib.metadata.Distribution) -> dict[str, Any]:
    """One package as a CycloneDX component."""
    version = package.version
    entry: dict[str, Any] = {
        "type": "application" if name == ROOT else "library",
        "bom-ref": reference(name, package),
        "name": package.metadata["Name"],
        "version": version,
        "purl": reference(name, package),
    }
    if licence := licence_of(package):
        # an SPDX expression stands apart from a licence that only has a name
        spdx = said(package, "License-Expression")
        entry["licenses"] = [{"expression": licence}] if spdx else [{"license": {"name": licence}}]
    if summary := said(package, "Summary"):
        entry["description"] = summary
    if record := package.read_text("RECORD"):
        entry["hashes"] = [{"alg": "SHA-256", "content": hashlib.sha256(record.encode()).hexdigest()}]
    return entry


def reference(name: str, package: importlib.metadata.Distribution) -> str:
    """The package URL; a local part such as +cpu is written as the standard asks."""
    return f"pkg:pypi/{name}@{package.version.replace('+', '%2B')}"


def licence_of(package: importlib.metadata.Distribution) -> str:
    """The licence's expression, its trove classifier, or the first line of its free text; "" when nothing is said."""
    if expression := said(package, "License-Expression"):
        return expression
    classifiers = package.metadata.get_all("Classifier") or []
    named = [text.rpartition(" :: ")[2] for text in classifiers if text.startswith("License ::")]
    if named := [name for name in named if name != "OSI Approved"]:
        return " / ".join(named)
    text = said(package, "License")
    return text.splitlines()[0][:80] if text else ""


def said(package: importlib.metadata.Distribution, field: str) -> str:
    """One field of a package's metadata, "" where it has none."""
    return str((package.metadata.get_all(field) or [""])[0]).strip()


def make_sbom(*, everything: bool = False) -> dict[str, Any]:
    """The bill of materials, JSON-ready.

    Args:
        everything: all installed packages, else medseg and what it needs.
    """
    known = installed()
    names = sorted(known) if everything else closure(ROOT, known)
    here = {name: known[name] for name in names}
    root = reference(ROOT, known[ROOT]) if ROOT in known else f"pkg:pypi/{ROOT}@{__version__}"
    return {
        "bomFormat": "CycloneDX",
        "specVersion": SPECIFICATION,
        "serialNumber": f"urn:uuid:{uuid.uuid4()}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
            "tools": {"components": [{"type": "application", "name": "medseg.cli.sbom", "version": __version__}]},
            "component": {"type": "application", "bom-ref": root, "name": ROOT, "version": __version__, "purl": root},
            "properties": [
                {"name": "python", "value": platform.python_version()},
                {"name": "platform", "value": f"{platform.system()} {platform.machine()}"},
            ],
        },
        "components": [component(name, package) for name, package in here.items() if name != ROOT] + VENDORED,
        "dependencies": [
            {"ref": reference(name, package), "dependsOn": [reference(one, known[one]) for one in needs(package, here)]}
            for name, package in here.items()
        ],
    }
