"""`medseg bundle install`: a zip, an address or a Hugging Face repository becomes a bundle that has a name here."""

from __future__ import annotations

import logging
import re
import shutil
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from medseg.bundle.catalogue import find_bundle, installed_folder, shipped_bundles
from medseg.bundle.opening.archive import MAX_BYTES, unpacked
from medseg.bundle.weights import sha256_of
from medseg.errors import BundleError
from medseg.interruption import run_to_the_end
from medseg.io.atomic import remove_leftovers
from medseg.io.whole_folders import follow_umask, put_back, put_folder, temporary_folder
from medseg.layout import bundle_name, check_name, is_bundle

log = logging.getLogger(__name__)

TIMEOUT_S = 60
HUB_PATTERN = re.compile(r"^hf:([\w.-]+/[\w.-]+?)(?:@([\w.-]+))?$")


def _download(address: str, folder: Path) -> Path:
    """Fetch a zip into a temporary file.

    Raises:
        BundleError: no answer, or too large.
    """
    target = folder / (Path(urllib.parse.urlparse(address).path).name or "bundle.zip")
    size = 0
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT_S) as answer, target.open("wb") as stream:
            while piece := answer.read(1 << 20):
                size += len(piece)
                if size > MAX_BYTES:
                    raise BundleError(f"{address}: is larger than {MAX_BYTES} bytes")
                stream.write(piece)
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise BundleError(
            f"{address}: cannot be downloaded ({getattr(error, 'reason', error)}). "
            "Without a network: copy the zip here by other means and install the file"
        ) from error
    return target


def _from_hub(repository: str, revision: str | None, folder: Path) -> Path:
    """Fetch a bundle from Hugging Face as plain files.

    Raises:
        BundleError: huggingface_hub is not installed, or the repository cannot be read.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise BundleError(f"hf:{repository} needs the package huggingface_hub: pip install huggingface_hub") from error
    try:
        snapshot_download(repository, revision=revision, local_dir=str(folder), ignore_patterns=["*.bin", "*.ckpt"])
    except Exception as error:
        raise BundleError(f"hf:{repository}: cannot be downloaded: {type(error).__name__}: {error}") from error
    if not is_bundle(folder):
        raise BundleError(f"hf:{repository}: is no bundle, it holds no configs/metadata.json")
    links = [path for path in folder.rglob("*") if path.is_symlink()]
    if links:
        raise BundleError(f"hf:{repository}: refused, {links[0].name} is a link")
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    return folder


def _put(source: Path, name: str, *, replace: bool) -> Path:
    """Move a finished folder to its final name.

    Raises:
        BundleError: the name is taken, by an installed bundle or a shipped one, and `replace` is False.
    """
    check_name(name)
    target = installed_folder() / name
    put_back(target)
    if not replace and target.exists():
        raise BundleError(f"a bundle {name!r} is installed already in {target}; --force replaces it")
    if name in shipped_bundles():
        if not replace:
            raise BundleError(
                f"{name!r} is the name of a bundle that comes with medseg, and would stand for the installed one instead; "
                "change the name in its configs/metadata.json, or let it hide the other with --force"
            )
        log.warning("%s now stands for %s, no longer for the bundle of that name that comes with medseg", name, target)
    follow_umask(source)
    run_to_the_end()
    put_folder(source, target)
    return target


def install_bundle(source: str, *, sha256: str | None = None, replace: bool = False) -> Path:
    """Verify and unpack a bundle below the user's bundle folder; nothing of it is run.

    Args:
        source: a zip, an http(s) address of one, `hf:owner/name[@revision]`, or a bundle folder.
        sha256: expected hash of the zip.
        replace: allow an installed bundle of the same name to be replaced, and a shipped one to be hidden.

    Returns:
        The installed folder; its name can be used in place of a path from now on.

    Raises:
        BundleError: unreadable, wrong hash, name taken, by a shipped bundle too.
        UntrustedBundleError: the archive holds links, climbing paths, a bomb ...
    """
    home = installed_folder()
    home.mkdir(parents=True, exist_ok=True)
    remove_leftovers(home)
    with temporary_folder(home) as place:
        hub = HUB_PATTERN.match(source)
        if hub:
            folder = _from_hub(hub.group(1), hub.group(2), place / "snapshot")
            return _put(folder, bundle_name(folder), replace=replace)
        if Path(source).is_dir():
            folder = Path(shutil.copytree(find_bundle(source), place / "copy", symlinks=True))
            return _put(folder, bundle_name(folder), replace=replace)
        is_address = source.startswith(("http://", "https://"))
        file = _download(source, place) if is_address else Path(source).expanduser()
        if not file.is_file():
            raise BundleError(f"{source}: no such file; expected a zip, an address or hf:owner/name")
        found = sha256_of(file)
        if sha256 is not None and found != sha256.lower():
            raise BundleError(f"{source}: has the SHA-256 {found}, expected {sha256.lower()}; nothing was unpacked")
        with unpacked(file, home) as (folder, has_sums):
            if not has_sums:
                log.warning("%s holds no SHA256SUMS: its content could not be checked (sha256 %s)", file.name, found)
            return _put(folder, bundle_name(folder), replace=replace)
