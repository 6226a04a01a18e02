"""Preprocessed cases on disk, opened as memory maps: only the voxels that a training crop needs are read.

One folder per case below a folder per recipe: `image.npy` (C, X, Y, Z) float32, `label.npy` (X, Y, Z), `foreground.npy` (n, 4)
sampled label voxels, and `case.json` with a checksum of each. A case is rebuilt, with one warning, when a source file
changed or a stored file is damaged. Folders are named by hashes: neither names nor paths of patients enter the cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from medseg.config import read_json
from medseg.errors import DataError, ResourceError

from .atomic import remove_leftovers, temporary_beside
from .behind import case_files, content_digest, read_unchanged
from .datalist import Case
from .locks import alone_in, is_held

VERSION = 1
CHUNK = 16 * 2**20
# How long a process waits for another that builds nothing, before it builds a case itself.
OTHERS_MAY_IDLE_S = 20.0
log = logging.getLogger(__name__)


class DamagedStoreError(DataError):
    """A stored case is incomplete, altered or of another version."""


@dataclass
class StoredArrays:
    """What one case looks like after preprocessing.

    Args:
        image: (C, X, Y, Z) float32.
        label: (X, Y, Z) integers, or None.
        foreground: (n, 4) int32 rows (label, x, y, z): voxels to centre crops on, a bounded sample per label.
        properties: JSON-ready facts that training needs (affine, labels present ...).
    """

    image: NDArray[np.float32]
    label: NDArray[np.integer] | None
    foreground: NDArray[np.int32]
    properties: dict[str, Any]


def default_folder() -> Path:
    """`MEDSEG_STORE`, or the user's cache folder; never inside the data folder."""
    named = os.environ.get("MEDSEG_STORE")
    if named:
        return Path(named)
    base = os.environ.get("MEDSEG_CACHE")
    if base:
        return Path(base) / "store"
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(cache) / "medseg" / "store"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _checksum(path: Path) -> int:
    value = 0
    with open(path, "rb") as stream:
        while block := stream.read(CHUNK):
            value = isal_zlib.crc32(block, value)
    return value


class Store:
    """Cases preprocessed by one recipe.

    Args:
        recipe: JSON-ready settings that decide the stored voxels; another recipe is another folder.
        folder: root of all stores (default `default_folder()`).

    Example:
        >>> store = Store({"spacing": [1.0, 1.0, 1.0]}, folder=tmp_path)    # doctest: +SKIP
        >>> arrays = store.ensure(case, preprocess_case)                    # doctest: +SKIP
    """

    def __init__(self, recipe: dict[str, Any], folder: Path | None = None) -> None:
        key = _digest(json.dumps({"version": VERSION, "recipe": recipe}, sort_keys=True))
        self.folder = (folder or default_folder()) / key

    def case_folder(self, case: Case) -> Path:
        sources = [*case.images, *([case.label] if case.label else [])]
        gaps = [f"no channel {channel}" for channel in case.missing]
        return self.folder / _digest("\n".join([*(str(path.absolute()) for path in sources), *gaps]))

    def open(self, case: Case, *, verify: bool = False) -> StoredArrays:
        """The stored arrays as memory maps.

        Args:
            verify: compare every byte with its checksum as well.

        Raises:
            DamagedStoreError: nothing stored, a file missing or altered, or a source changed since.
        """
        folder = self.case_folder(case)
        try:
            record = read_json(folder / "case.json")
        except (OSError, ValueError) as error:
            raise DamagedStoreError(f"case {case.name!r}: nothing complete is stored") from error
        try:
            arrays = _mapped(case, folder, record["files"], verify=verify)
        except FileNotFoundError as error:  # another process took the folder away after the record was read
            raise DamagedStoreError(f"case {case.name!r}: what is stored is being exchanged") from error
        if not _sources_unchanged(case, record["sources"]):
            raise DamagedStoreError(f"case {case.name!r}: its files changed since it was stored")
        return StoredArrays(
            arrays["image.npy"], arrays.get("label.npy"), arrays["foreground.npy"], dict(record["properties"])
        )

    def ensure(self, case: Case, build: Callable[[Case], StoredArrays]) -> StoredArrays:
        """The stored arrays, built first (again) where they are missing, damaged or stale; one process builds, others wait."""
        folder = self.case_folder(case)
        with alone_in(self._lock(case)):
            existed = folder.exists()
            try:
                return self.open(case, verify=True)
            except DamagedStoreError as error:
                if existed:
                    log.warning("%s; preprocessing it again", error)
            self._write(folder, case, *_built(case, build))
            return self._reopen(case)

    def _lock(self, case: Case) -> Path:
        folder = self.case_folder(case)
        return folder.with_name(f".{folder.name}.lock")

    def _reopen(self, case: Case) -> StoredArrays:
        """`open`, where another process may be exchanging the folder: on drives without locks both build, and one is last."""
        for pause in (0.05, 0.2, 1.0):
            try:
                return self.open(case)
            except DamagedStoreError:
                time.sleep(pause)
        return self.open(case)

    def await_all(
        self,
        cases: Iterable[Case],
        build: Callable[[Case], StoredArrays],
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """What `ensure_all` of another process on this machine makes; built here only where nobody else does for a while."""
        todo = list(cases)
        left, idle_since = todo, time.monotonic()
        while left:
            missing = [case for case in left if not self._is_whole(case)]
            if len(missing) < len(left) or any(is_held(self._lock(case)) for case in missing):
                idle_since = time.monotonic()
            left = missing
            if progress:
                progress(len(todo) - len(left), len(todo))
            if left and time.monotonic() - idle_since > OTHERS_MAY_IDLE_S:
                self.ensure(left[0], build)
            elif left:
                time.sleep(0.2)

    def _is_whole(self, case: Case) -> bool:
        try:
            self.open(case, verify=True)
        except DamagedStoreError:
            return False
        return True

    def ensure_all(
        self,
        cases: Iterable[Case],
        build: Callable[[Case], StoredArrays],
        *,
        workers: int = 1,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """`ensure` for many cases, `workers` at a time; the first failure is raised, what is finished stays."""
        todo = list(cases)
        remove_leftovers(self.folder)
        with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
            jobs = [pool.submit(self.ensure, case, build) for case in todo]
            try:
                for done, job in enumerate(as_completed(jobs), start=1):
                    job.result()
                    if progress:
                        progress(done, len(todo))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _write(self, folder: Path, case: Case, arrays: StoredArrays, sources: list[dict[str, Any]]) -> None:
        try:
            working = temporary_beside(folder)
            working.mkdir(mode=0o700, parents=True)
        except OSError as error:
            raise ResourceError(f"{folder.parent}: cannot store preprocessed cases here: {error.strerror}") from error
        try:
            files = {"image.npy": arrays.image, "foreground.npy": arrays.foreground}
            if arrays.label is not None:
                files["label.npy"] = arrays.label
            facts = {name: _save(working / name, array) for name, array in files.items()}
            record = {
                "version": VERSION,
                "files": facts,
                "sources": sources,
                "properties": arrays.properties,
            }
            with open(working / "case.json", "w", encoding="utf-8") as stream:
                json.dump(record, stream)
                stream.flush()
                os.fsync(stream.fileno())
            self._put(case, working, folder)
        except OSError as error:
            raise ResourceError(
                f"case {case.name!r}: cannot write preprocessed arrays below {folder.parent}: {error.strerror or error}. "
                "Free some space, or name another place with MEDSEG_STORE."
            ) from error
        finally:
            shutil.rmtree(working, ignore_errors=True)

    def _put(self, case: Case, working: Path, folder: Path) -> None:
        """Give a case's new folder its name, or leave what another process was quicker with, on a drive without locks."""
        for pause in (0.02, 0.1, 0.5, None):
            if self._is_whole(case):
                return
            if folder.exists():  # set aside by one rename: a kill never leaves half of an old case under its name
                old = temporary_beside(folder)
                with contextlib.suppress(FileNotFoundError):  # another process did that
                    os.replace(folder, old)
                shutil.rmtree(old, ignore_errors=True)
            try:
                os.replace(working, folder)
                return
            except OSError:  # a third process put or took one in between
                if pause is None:
                    raise
                time.sleep(pause)


def _mapped(case: Case, folder: Path, files: dict[str, Any], *, verify: bool) -> dict[str, NDArray[Any]]:
    """The arrays of a stored case as memory maps, each of the recorded size (and content, where `verify`)."""
    for name, facts in files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != facts["bytes"]:
            raise DamagedStoreError(f"case {case.name!r}: stored {name} is missing or cut short")
        if verify and _checksum(path) != facts["crc32"]:
            raise DamagedStoreError(f"case {case.name!r}: stored {name} is altered")
    return {name: np.load(folder / name, mmap_mode="r", allow_pickle=False) for name in files}


def _built(case: Case, build: Callable[[Case], StoredArrays]) -> tuple[StoredArrays, list[dict[str, Any]]]:
    """The arrays of a case, and what its files were when they were read."""
    volumes = [*case.images, *([case.label] if case.label else [])]
    return read_unchanged(volumes, lambda: (build(case), [_source_facts(path) for path in case_files(case)]))


def _source_facts(path: Path) -> dict[str, Any]:
    status = path.stat()
    times = {"mtime_ns": status.st_mtime_ns, "ctime_ns": status.st_ctime_ns}
    return {"bytes": status.st_size, **times, "sha256": content_digest(path)}


def _sources_unchanged(case: Case, recorded: list[dict[str, Any]]) -> bool:
    """Same size and times; where only a time differs (a copied dataset, a replaced file), same content."""
    paths = case_files(case)
    if len(paths) != len(recorded):
        return False
    for path, facts in zip(paths, recorded, strict=True):
        try:
            status = path.stat()
        except OSError as error:
            raise DataError(f"case {case.name!r}: {path} is gone: {error.strerror}") from error
        if status.st_size != facts["bytes"]:
            return False
        same = (status.st_mtime_ns, status.st_ctime_ns) == (facts["mtime_ns"], facts.get("ctime_ns"))
        if not same and content_digest(path) != facts["sha256"]:
            return False
    return True


def _save(path: Path, array: NDArray[Any]) -> dict[str, int]:
    with open(path, "wb") as stream:
        np.save(stream, np.ascontiguousarray(array), allow_pickle=False)
        stream.flush()
        os.fsync(stream.fileno())
    return {"bytes": path.stat().st_size, "crc32": _checksum(path)}


def sample_foreground(label: NDArray[np.integer], *, most: int = 10_000, seed: int = 0) -> NDArray[np.int32]:
    """Up to `most` voxels of each label above 0 as rows (label, x, y, z), the same for the same label map."""
    rows = []
    for value in np.unique(label[label > 0]):
        voxels = np.argwhere(label == value)
        if len(voxels) > most:
            chosen = np.random.default_rng([seed, int(value)]).choice(len(voxels), most, replace=False)
            voxels = voxels[np.sort(chosen)]
        rows.append(np.column_stack([np.full(len(voxels), value), voxels]))
    return np.concatenate(rows).astype(np.int32) if rows else np.zeros((0, 1 + label.ndim), dtype=np.int32)
