"""`medseg bundle pack`: one zip with checksums and safetensors, without results, paths or names of people's files."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.bundle.catalogue import find_bundle
from medseg.bundle.configs.metadata import read_metadata
from medseg.bundle.leak_scan import Scan
from medseg.bundle.opening.inventory import BYTECODE
from medseg.bundle.opening.own_packages import own_packages
from medseg.bundle.secrets import scrub, secrets_of
from medseg.bundle.weights import read_state_dict, sha256_of
from medseg.config import read_json
from medseg.errors import BundleError
from medseg.io.atomic import atomic_path
from medseg.layout import Layout, bundle_name

# Results, which are not part of what is given away.
SKIPPED_FOLDERS = frozenset({"runs", "eval", "__pycache__"})
log = logging.getLogger(__name__)

# What a bundle is made of; a report, a picture or a table that lies beside it may show patients and is not packed.
PACKED = tuple(
    re.compile(pattern)
    for pattern in (
        r"plan\.json",
        r"(?:docs/)?(?:LICEN[CS]E|NOTICE|README)[\w.-]*(?<!\.html)",
        r"docs/[\w.-]+\.(?:md|txt)",
        r"configs/[\w.-]+\.(?:json|ya?ml|conf)",
        r"(?:scripts/(?:[\w-]+/)*)?[\w-]+\.py",
        r"(?:[\w-]*requirements[\w-]*\.txt|large_files\.ya?ml)",
        r"models/(?:[\w.-]+/)*[\w.-]+\.(?:pth?|safetensors|ts|pt2|onnx|xml|bin)",
    )
)
# Same bytes in, same zip out: the earliest date a zip can hold.
FIXED_DATE = (1980, 1, 1, 0, 0, 0)
# Already compressed or incompressible.
STORED = (".pt", ".safetensors", ".ts", ".pt2", ".onnx", ".bin", ".png")


@dataclass(frozen=True)
class Packed:
    """The zip that was written."""

    path: Path
    files: int
    megabytes: float
    sha256: str
    code: tuple[str, ...] = ()  # folders of the user's own code that are in it

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "path": str(self.path)}


def _content(path: Path, table: Mapping[str, str]) -> bytes:
    if path.suffix == ".json" and table:
        scrubbed = scrub(read_json(path), table)
        return (json.dumps(scrubbed, indent=2, ensure_ascii=False) + "\n").encode()
    content = path.read_bytes()
    if path.suffix in (".md", ".txt", ""):  # the card may speak of its worst cases
        with contextlib.suppress(UnicodeDecodeError):
            return str(scrub(content.decode("utf-8"), table)).encode()
    return content


def packed_files(folder: Path) -> list[Path]:
    """Files that go into the zip: those that a bundle is made of, see `PACKED`; results and reports stay here.

    The folder of a project goes with the network that needs it.

    Raises:
        BundleError: a link, which would reach outside the bundle.
    """
    found, code = [], {path.name for path in own_packages(folder)}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if SKIPPED_FOLDERS & set(name.parts) or any(part.startswith(".") for part in name.parts):
            continue
        if path.is_symlink():
            raise BundleError(f"{path} is a link; a packed bundle holds files only. Replace it by the file")
        if not path.is_file() or name.as_posix() == Layout(folder).checksums.name:
            continue
        if name.parts[0] in code and path.suffix.lower() in BYTECODE:
            continue
        if name.parts[0] in code or any(pattern.fullmatch(name.as_posix()) for pattern in PACKED):
            found.append(path)
        else:
            log.info("%s stays here: no file that a bundle is made of", name.as_posix())
    return found


def clean_files(folder: Path, *, keep_names: bool = False) -> dict[str, bytes]:
    """Path inside the bundle -> content, names replaced in JSON files, every file looked through afterwards.

    Raises:
        BundleError: a file still holds a case's name, the data's folder, the user's home or the bundle's place; or a link.
    """
    secrets = secrets_of(Layout(folder), keep_names=keep_names)
    scan = Scan(secrets)
    contents = {}
    for path in packed_files(folder):
        inside = path.relative_to(folder).as_posix()
        contents[inside] = _content(path, secrets.table)
        made = path.suffix in (".ts", ".pt2", ".onnx", ".xml", ".bin")
        cure = "export it again or delete it" if made else "take it out of the file, or the file out of the bundle"
        scan.refuse(inside, contents[inside], cure)
    return contents


def pack_bundle(path_or_name: str | Path, output: Path | None = None, *, keep_names: bool = False) -> Packed:
    """Write NAME_vVERSION.zip.

    Args:
        path_or_name: the bundle.
        output: the zip to write; by default in the working directory.
        keep_names: leave the names of training cases in splits.json and plan.json; the data folder is always removed.

    Raises:
        BundleError: no weights yet, the bundle holds a link, or a file still holds a name or place; it is named.
    """
    folder = find_bundle(path_or_name)
    layout = Layout(folder)
    name, version = bundle_name(folder), str(read_metadata(folder).get("version", "0.0.0"))
    target = output or Path(f"{name}_v{version}.zip")
    contents = clean_files(folder, keep_names=keep_names)
    if not (
        layout.safetensors.is_file() or len(read_json(layout.inference).get("models") or ()) > 1
    ):  # listed files are read instead
        contents |= _as_safetensors(layout)
        if (inside := layout.trust.relative_to(folder).as_posix()) in contents:
            weights = [content for file, content in contents.items() if file.endswith((".pt", ".safetensors"))]
            contents[inside] = _of_all(contents[inside], weights)
    sums = []
    with atomic_path(target) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for inside, content in sorted(contents.items()):
            sums.append(f"{hashlib.sha256(content).hexdigest()}  {inside}")
            _add(archive, f"{name}/{inside}", content)
        _add(archive, f"{name}/SHA256SUMS", ("\n".join(sums) + "\n").encode())
    code = tuple(path.name for path in own_packages(folder))
    return Packed(target, len(sums) + 1, target.stat().st_size / 1e6, sha256_of(target), code)


def write_clean_copy(folder: Path, target: Path) -> Path:
    """The files that `pack_bundle` would pack, names replaced, as a folder."""
    for inside, content in clean_files(folder).items():
        copy = target / inside
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(content)
    return target


def _as_safetensors(layout: Layout) -> dict[str, bytes]:
    """models/model.safetensors with the weights of models/model.pt, for the zip only; the folder stays as it is."""
    from safetensors.torch import save

    state = {name: value.contiguous().clone() for name, value in read_state_dict(layout.weights).items()}
    return {layout.safetensors.relative_to(layout.folder).as_posix(): save(state)}


def _of_all(trust: bytes, weights: Iterable[bytes]) -> bytes:
    """configs/trust.json, which names weights by their SHA-256, of the same weights as safetensors too."""
    facts = json.loads(trust)
    known = {hashlib.sha256(content).hexdigest() for content in weights}
    facts["weights"] = sorted({*facts["weights"], *known}) if known & set(facts["weights"]) else facts["weights"]
    return (json.dumps(facts, indent=2, ensure_ascii=False) + "\n").encode()


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, date_time=FIXED_DATE)
    entry.compress_type = zipfile.ZIP_STORED if name.endswith(STORED) else zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, content)
