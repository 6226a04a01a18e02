"""`medseg bundle pack`: one zip with checksums and safetensors, without results, paths or names of people's files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.bundle.catalogue import find_bundle
from medseg.bundle.configs.metadata import read_metadata
from medseg.bundle.weights import read_state_dict, sha256_of
from medseg.config import read_json
from medseg.errors import BundleError
from medseg.io.atomic import atomic_path
from medseg.layout import Layout, bundle_name

# Results, which are not part of what is given away.
SKIPPED_FOLDERS = frozenset({"runs", "eval", "__pycache__"})
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

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "path": str(self.path)}


def _replacements(layout: Layout) -> dict[str, str]:
    """What must not leave this machine -> what stands for it: the data folder, and the case names by number."""
    table: dict[str, str] = {}
    for path in (layout.plan, layout.train, layout.inference, layout.evaluate):
        if path.is_file():
            content = read_json(path)
            for key in ("data_folder", "dataset_dir"):
                folder = content.get(key)
                if isinstance(folder, str) and folder:
                    table[folder] = "data"
    names: set[str] = set()
    if layout.splits.is_file():
        for fold in read_json(layout.splits):
            names |= {str(name) for part in fold.values() for name in part}
    table.update({name: f"case_{number:04d}" for number, name in enumerate(sorted(names), start=1)})
    return table


def scrub(node: Any, table: Mapping[str, str]) -> Any:
    """Replace names in every string and key of a JSON value; whole words only, so that a case "1" leaves "0.15" alone."""
    if isinstance(node, Mapping):
        return {scrub(key, table): scrub(value, table) for key, value in node.items()}
    if isinstance(node, list):
        return [scrub(value, table) for value in node]
    if not isinstance(node, str) or not table:
        return node
    if node in table:
        return table[node]
    long = sorted((name for name in table if len(name) >= 3), key=len, reverse=True)
    if not long:
        return node
    pattern = "|".join(re.escape(name) for name in long)
    return re.sub(rf"(?<!\w)(?:{pattern})(?!\w)", lambda found: table[found.group(0)], node)


def _content(path: Path, table: Mapping[str, str]) -> bytes:
    if path.suffix == ".json" and table:
        scrubbed = scrub(read_json(path), table)
        return (json.dumps(scrubbed, indent=2, ensure_ascii=False) + "\n").encode()
    return path.read_bytes()


def packed_files(folder: Path) -> list[Path]:
    """Files that go into the zip: everything but results, hidden files and links.

    Raises:
        BundleError: a link, which would reach outside the bundle.
    """
    found = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if SKIPPED_FOLDERS & set(name.parts) or any(part.startswith(".") for part in name.parts):
            continue
        if path.is_symlink():
            raise BundleError(f"{path} is a link; a packed bundle holds files only. Replace it by the file")
        if path.is_file() and name.as_posix() != "SHA256SUMS":
            found.append(path)
    return found


def pack_bundle(path_or_name: str | Path, output: Path | None = None, *, keep_names: bool = False) -> Packed:
    """Write NAME_vVERSION.zip.

    Args:
        path_or_name: the bundle.
        output: the zip to write; by default in the working directory.
        keep_names: leave the names of training cases in splits.json and plan.json; the data folder is always removed.

    Raises:
        BundleError: no weights yet, or the bundle holds a link.
    """
    folder = find_bundle(path_or_name)
    layout = Layout(folder)
    name, version = bundle_name(folder), str(read_metadata(folder).get("version", "0.0.0"))
    target = output or Path(f"{name}_v{version}.zip")
    table = _replacements(layout)
    if keep_names:
        table = {key: value for key, value in table.items() if value == "data"}
    contents = {path.relative_to(folder).as_posix(): path for path in packed_files(folder)}
    extra = {} if layout.safetensors.is_file() else _as_safetensors(layout)
    sums = []
    with atomic_path(target) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for inside in sorted({*contents, *extra}):
            content = extra[inside] if inside in extra else _content(contents[inside], table)
            sums.append(f"{hashlib.sha256(content).hexdigest()}  {inside}")
            _add(archive, f"{name}/{inside}", content)
        _add(archive, f"{name}/SHA256SUMS", ("\n".join(sums) + "\n").encode())
    return Packed(target, len(sums) + 1, target.stat().st_size / 1e6, sha256_of(target))


def write_clean_copy(folder: Path, target: Path) -> Path:
    """The files that `pack_bundle` would pack, names replaced, as a folder."""
    table = _replacements(Layout(folder))
    for path in packed_files(folder):
        copy = target / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(_content(path, table))
    return target


def _as_safetensors(layout: Layout) -> dict[str, bytes]:
    """models/model.safetensors with the weights of models/model.pt, for the zip only; the folder stays as it is."""
    from safetensors.torch import save

    state = {name: value.contiguous().clone() for name, value in read_state_dict(layout.weights).items()}
    return {layout.safetensors.relative_to(layout.folder).as_posix(): save(state)}


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, date_time=FIXED_DATE)
    entry.compress_type = zipfile.ZIP_STORED if name.endswith(STORED) else zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, content)
