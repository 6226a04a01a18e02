"""Where bundles lie on this machine, and which folder a name, a path or a packed zip stands for."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import medseg
from medseg.errors import BundleError, nearest
from medseg.io.whole_folders import ASIDE, follow_umask
from medseg.layout import bundle_name, check_name, is_bundle
from medseg.selection.unfinished import finish_interrupted

from .opening.archive import unpacked

log = logging.getLogger(__name__)


def packaged_folder(name: str) -> Path:
    """`configs` or `bundles` as shipped: inside an installed wheel, else beside the package in a source tree."""
    package = Path(medseg.__file__).resolve().parent
    installed = package / f"_{name}"
    return installed if installed.is_dir() else package.parent / name


def installed_folder() -> Path:
    """Where `medseg bundle install` puts bundles: $MEDSEG_BUNDLES, else the user's data folder."""
    explicit = os.environ.get("MEDSEG_BUNDLES")
    if explicit:
        return Path(explicit).expanduser()
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "medseg" / "bundles"


def shipped_bundles() -> dict[str, Path]:
    """Name -> folder of every bundle that comes with medseg."""
    return _bundles_in(packaged_folder("bundles"))


def known_bundles() -> dict[str, Path]:
    """Name -> folder of every shipped and installed bundle; an installed one hides a shipped one of the same name."""
    return {**shipped_bundles(), **_bundles_in(installed_folder())}


def _bundles_in(root: Path) -> dict[str, Path]:
    folders = [folder for folder in sorted(root.iterdir()) if is_bundle(folder)] if root.is_dir() else []
    found = {folder.name: folder for folder in folders if not folder.name.startswith(".")}
    for folder in folders:  # an installation that was killed left the old bundle there
        if folder.name.startswith(ASIDE):
            found.setdefault(folder.name.removeprefix(ASIDE), folder)
    return found


@cache
def _tell_hidden(name: str, used: Path) -> None:
    """Say which of two bundles of one name is used, once: never in silence one that somebody brought."""
    shipped = shipped_bundles().get(name)
    if shipped is not None and shipped.resolve() != used.resolve():
        log.warning("%s: %s is used, not the bundle of that name that comes with medseg (%s)", name, used, shipped)


def find_bundle(path_or_name: str | Path) -> Path:
    """The folder of a bundle given as a folder, a packed zip, or the name of a shipped or installed bundle.

    A zip is verified and unpacked once, beside the installed bundles.

    Raises:
        BundleError: nothing of that path or name; the message lists the names there are; or a killed command's work on it
            cannot be finished.
    """
    path = Path(path_or_name).expanduser()
    if path.is_dir():
        if is_bundle(path):
            _tell_hidden(str(path_or_name), path)
            return _whole(path)
        if path.name == "configs" and is_bundle(path.parent):
            return _whole(path.parent)
        raise BundleError(f"{path} is a folder but no bundle: it holds no configs/metadata.json")
    known = known_bundles()
    if str(path_or_name) in known:
        _tell_hidden(str(path_or_name), known[str(path_or_name)])
        return _whole(known[str(path_or_name)])
    if path.suffix == ".zip" and path.is_file():
        return unpacked_once(path)
    listing = nearest(str(path_or_name), known) if known else "No bundle is shipped or installed here."
    raise BundleError(f"no bundle {str(path_or_name)!r}: neither a folder nor a known name. {listing}")


def _whole(folder: Path) -> Path:
    """The bundle, after what a killed command began with its files is finished."""
    finish_interrupted(folder)
    return folder


def _candidate_roots() -> Iterator[Path]:
    """Folders that may be the root of the bundle whose config is being run, most certain first."""
    words = sys.argv
    for position, word in enumerate(words):
        if word.startswith("--config_file"):
            text = word.partition("=")[2] or (words[position + 1] if position + 1 < len(words) else "")
            for part in text.strip("[]").split(","):
                yield Path(part.strip(" '\"")).parent.parent
    yield Path.cwd()
    # MONAI's ConfigWorkflow.run() puts the root of the bundle that it runs at the front of sys.path
    for entry in sys.path[:3]:
        yield Path(entry or ".")


def find_bundle_root(name: str) -> str:
    """The root of the bundle `name` whose configuration is being run, for `bundle_root` in its files.

    The model zoo writes "." there, which is right only when the bundle is the working directory. This looks at the
    `--config_file` of the command line, the working directory, then the folder that MONAI's `run()` put on `sys.path`,
    and falls back to "." when none of them is a bundle of that name. Whoever overrides `bundle_root` wins, as always.
    """
    for root in _candidate_roots():
        if is_bundle(root) and bundle_name(root) == name:
            return str(root.resolve())
    return "."


def unpacked_once(file: Path) -> Path:
    """The folder of a packed bundle, unpacked beside the installed ones under its hash; a second call finds it there.

    Raises:
        BundleError, UntrustedBundleError: see `medseg.bundle.opening.archive`.
    """
    from .weights import sha256_of  # brings torch

    home = installed_folder() / ".packed" / sha256_of(file)[:16]
    ready = [folder for folder in home.glob("*") if is_bundle(folder)] if home.is_dir() else []
    if ready:
        return ready[0]
    with unpacked(file, home) as (folder, _):
        name = bundle_name(folder)
        check_name(name)
        follow_umask(folder)
        try:
            os.rename(folder, home / name)
        except OSError:
            if not is_bundle(home / name):  # else another process was faster
                raise
    return home / name
