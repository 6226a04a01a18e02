"""What is fuzzed: each reader with sound files to start from, and the config grammar.

A target turns bytes into an outcome. "read" and "refused" are the only good ones; anything else that a reader raises is a
finding, and so is a sound-looking result whose voxels differ although every byte of them is under a checksum.
"""

from __future__ import annotations

import functools
import gzip
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from medseg.bundle.opening.bounded import GrammarError
from medseg.bundle.opening.expressions import check
from medseg.config import parse_overrides, read_config
from medseg.datasets.description import label_names, read_object, read_splits
from medseg.errors import MedsegError
from medseg.io.datalist import read_case_list
from medseg.io.declared import channel_names
from medseg.io.volume import read_image, read_label
from tests.corpus.entry import voxels
from tests.corpus.nifti_inputs import good_bytes
from tests.corpus.other_inputs import by_itk, mgh
from tests.io.dicom_maker import make_multiframe, make_series

VOXEL_LIMIT = 1 << 20


@dataclass(frozen=True)
class Target:
    """One thing that reads bytes.

    Attributes:
        seeds: sound inputs.
        run: raises MedsegError to refuse; gets the path of a file with the bytes.
        suffix: of that file.
        wrap: applied to mutated bytes before they are written, such as gzip, so that mutations reach what lies inside.
        checked: whether voxels that come back must be the sound ones.
    """

    seeds: tuple[bytes, ...]
    run: Callable[[Path], object]
    suffix: str
    wrap: Callable[[bytes], bytes] = lambda content: content
    checked: bool = False


def image(path: Path) -> np.ndarray:
    return read_image(path, max_voxels=VOXEL_LIMIT).array


def label(path: Path) -> np.ndarray:
    return read_label(path, max_voxels=VOXEL_LIMIT).array


def description(path: Path) -> None:
    content = read_object(path)
    channel_names(path, content)
    label_names(path, content)


def grammar(path: Path) -> None:
    try:
        check(path.read_bytes().decode("utf-8", errors="replace"))
    except GrammarError as error:
        raise MedsegError(str(error)) from error


def overrides(path: Path) -> None:
    parse_overrides(path.read_bytes().decode("utf-8", errors="replace").split("\n"))


def _bytes_of(make: Callable[[Path], Path]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return make(Path(folder)).read_bytes()


def _one_slice(folder: Path) -> Path:
    return make_series(folder, voxels("i2", (8, 6, 1)))[0]


EXPRESSIONS = (
    b"[@a::b * 2, max(1, @c)] + list(range(10))",
    b"'cuda:0' if @cuda else 'cpu'",
    b"{'a': [1, 2]}['a'][0:1] and not 3 < @b <= 4",
    b"@root + '/models/' + str(3 ** 2)",
)


@functools.cache
def targets() -> dict[str, Target]:
    """Every target by name."""
    plain = good_bytes()
    scaled = nib.Nifti1Image(voxels(), np.diag([1, 2, 3, 1]))
    scaled.header.set_slope_inter(0.5, 3)
    two = good_bytes(kind=nib.Nifti2Image)
    return {
        "nifti": Target((plain, two, scaled.to_bytes()), image, ".nii"),
        "nifti label": Target((plain, good_bytes(voxels("f4"))), label, ".nii"),
        "nifti inside gzip": Target((plain, two), image, ".nii.gz", wrap=lambda content: gzip.compress(content, 1)),
        "nifti gzip": Target((gzip.compress(plain), gzip.compress(two)), image, ".nii.gz", checked=True),
        "nrrd": Target((_bytes_of(by_itk("a.nrrd", compress=False)),), image, ".nrrd"),
        "nrrd gzip": Target((_bytes_of(by_itk("a.nrrd")),), image, ".nrrd"),
        "metaimage": Target((_bytes_of(by_itk("a.mha", compress=False)), _bytes_of(by_itk("a.mha"))), image, ".mha"),
        "mgh": Target((_bytes_of(mgh("a.mgh")),), image, ".mgh"),
        "mgz": Target((_bytes_of(mgh("a.mgz")),), image, ".mgz", checked=True),
        "dicom": Target((_bytes_of(_one_slice),), image, ".dcm"),
        "dicom frames": Target((_bytes_of(lambda folder: make_multiframe(folder / "a.dcm")),), image, ".dcm"),
        "csv list": Target(
            (b"name;image_0;image_1;label\na;b.nii;c.nii;d.nii\n", b'image,subject\n"a b.nii",7\n'),
            read_case_list,
            ".csv",
        ),
        "dataset.json": Target(
            (b'{"labels": {"0": "bg", "a": [1, 2]}, "channel_names": {"0": "CT"}}',), description, ".json"
        ),
        "splits": Target((b'[{"train": ["a"], "val": ["b"]}]',), read_splits, ".json"),
        "config": Target(
            (b'{"a": {"_target_": "torch.nn.ReLU"}, "b": [1, "@a"]}',), lambda path: read_config([path]), ".json"
        ),
        "overrides": Target((b'network_def::mixer=identity\nmax_epochs=3\na#0::b={"c": [1]}',), overrides, ".txt"),
        "grammar": Target(EXPRESSIONS, grammar, ".txt"),
    }


def outcome(target: Target, content: bytes, path: Path) -> str:
    """ "read", "refused", or what went wrong, in words.

    Args:
        target: what reads.
        content: mutated bytes.
        path: the file to write them to, with the target's suffix.
    """
    path.write_bytes(target.wrap(content))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a warning of numpy or pydicom would be a second line on the screen
            result = target.run(path)
    except MedsegError as error:
        return "refused" if "\n" not in str(error) else f"message of several lines: {error!s}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if target.checked and not np.array_equal(np.asarray(result)[0], voxels()):
        return "wrong voxels under a good checksum"
    return "read"
