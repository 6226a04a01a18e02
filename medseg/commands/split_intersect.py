"""`medseg split intersect`: the patients that all sites have, without telling anybody the others."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Mapping
from pathlib import Path

from medseg.collaboration.jobs import need_nvflare, run_apart
from medseg.collaboration.sites import Site, check_names
from medseg.errors import BundleError, ConfigError, DataError
from medseg.io.atomic import write_text
from medseg.layout import SiteFolder

NAME = "names"


def need_protocol() -> None:
    """Refuse to go on without the extra. Raises ConfigError."""
    need_nvflare()
    if importlib.util.find_spec("private_set_intersection") is None:
        raise ConfigError(
            "openmined.psi is not installed; it comes with the extra `psi`, in an environment of its own since it pins protobuf "
            "(pip install 'medseg[psi]', Python up to 3.13). Without it, write the shared names into a file for --cases"
        )


def shared_patients(sources: Mapping[str, Path], output: Path, *, poc: bool = False) -> list[str]:
    """Intersect the names of the patients of several sites on this machine, a process per site.

    Args:
        sources: site -> folder of its patients.
        output: text file, a name a line, for `--cases` of `medseg split plan`.
        poc: real processes with certificates in place of the simulator.

    Raises:
        ConfigError: fewer than two sites, or the extra is missing; BundleError: the file exists; DataError: no patient in
            common; ResourceError: a site failed, and is named.
    """
    check_names(list(sources))
    if len(sources) < 2:
        raise ConfigError(f"{len(sources)} site was named; names are shared by two or more")
    if output.exists():
        raise BundleError(f"{output} exists already; name another file with --output")
    need_protocol()
    with tempfile.TemporaryDirectory(prefix="medseg-names-") as root:
        folders = {name: Path(root) / "sites" / name for name in sources}
        for name, folder in folders.items():
            folder.mkdir(parents=True)
            Site(name, "images", str(sources[name].absolute())).write(folder)
        facts = {
            "names": list(sources), "name": NAME, "environment": "poc" if poc else "simulator",
            "workspace": str(Path(root) / "nvflare"),
        }  # fmt: skip
        run_apart(facts, folders, output.with_suffix(".log"))
        found = {name: _names_at(folder) for name, folder in folders.items()}
    first = next(iter(found.values()))
    if not first or any(names != first for names in found.values()):
        raise DataError(f"the sites {', '.join(sources)} have no patient in common; patients are known by their names")
    output.with_suffix(".log").unlink(missing_ok=True)
    write_text(output, "".join(f"{name}\n" for name in first))
    return first


def _names_at(folder: Path) -> list[str]:
    path = SiteFolder(folder).shared_names
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
