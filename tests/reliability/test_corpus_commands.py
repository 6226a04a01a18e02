"""R1 at the command line: exit code, one line with file and cause, time, memory, nothing left, before torch is imported."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from medseg.io.header import Header
from medseg.io.volume import read_header, read_label, write_label
from tests.bundle.samples import make_bundle
from tests.corpus.entry import AFFINE, SHAPE, Entry
from tests.corpus.inputs import BROKEN, CORPUS, LEGITIMATE
from tests.datasets.layouts import make_folder
from tests.reliability.commands import PRELOAD_TORCH, Ran, run_commands

pytestmark = pytest.mark.requirement("R1")

IMAGES = [name for name in BROKEN if CORPUS[name].kind == "image"]
FILES = [name for name in IMAGES if not name.startswith("dicom")]
SLOWEST_S, LARGEST_MB = 2.0, 200.0


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "tiny"
    make_bundle(folder)
    return folder


def made(root: Path, names: list[str]) -> dict[str, Path]:
    """Each input in a folder of its own."""
    paths = {}
    for number, name in enumerate(names):
        folder = root / f"input_{number}"
        folder.mkdir()
        paths[name] = CORPUS[name].make(folder)
    return paths


def faults(ran: Ran, path: Path, output: Path) -> list[str]:
    """What a refusal did wrong, in words; an empty list is what R1 asks for."""
    found = []
    if ran.code in (0, 2) or ran.code < 0:
        found.append(f"exit code {ran.code}")
    lines = ran.err.splitlines()
    if len(lines) != 1 or (not lines[0].startswith("medseg: ") and not lines[0].startswith("failed: ")):
        found.append(f"{len(lines)} lines on stderr: {ran.err[:500]!r}")
    if path.name not in ran.err and path.with_suffix("").name not in ran.err:
        found.append(f"does not name {path.name}: {ran.err[:300]!r}")
    if ran.seconds > SLOWEST_S:
        found.append(f"{ran.seconds:.1f} s")
    if ran.growth_mb > LARGEST_MB:
        found.append(f"{ran.growth_mb:.0f} MB")
    if output.exists() and any(one.is_file() for one in output.rglob("*")):
        found.append(f"left {[one.name for one in output.rglob('*')]}")
    return found


def test_predict_refuses_every_broken_image_in_one_line_before_torch(tmp_path: Path, bundle: Path) -> None:
    paths = made(tmp_path, IMAGES)
    outputs = {name: tmp_path / f"output_{number}" for number, name in enumerate(IMAGES)}
    results = run_commands([["predict", str(bundle), str(paths[name]), "-o", str(outputs[name])] for name in IMAGES])
    wrong = {name: faults(ran, paths[name], outputs[name]) for name, ran in zip(IMAGES, results, strict=True)}
    assert {name: what for name, what in wrong.items() if what} == {}
    assert [name for name, ran in zip(IMAGES, results, strict=True) if ran.modules] == []


def test_evaluate_refuses_every_broken_label_map_in_one_line(tmp_path: Path) -> None:
    names = [
        name
        for name in BROKEN
        if name.startswith(("label", "nifti")) and "folder named" not in name and "missing" not in name
    ]
    reference = tmp_path / "reference.nii.gz"
    write_label(reference, np.ones(SHAPE, np.uint8), Header.of_array(SHAPE, AFFINE))
    names = [name for name in names if name not in ("nifti: NaN voxel", "nifti: beyond float32")]
    paths = made(tmp_path, names)
    output = tmp_path / "output"
    commands = [
        ["evaluate", "--prediction", str(paths[n]), "--reference", str(reference), "--output", str(output)]
        for n in names
    ]
    wrong = {n: faults(ran, paths[n], output) for n, ran in zip(names, run_commands(commands), strict=True)}
    assert {name: what for name, what in wrong.items() if what} == {}


def dataset_with(root: Path, entry: Entry, *, place: str) -> tuple[Path, Path]:
    """A sound dataset of three cases with one image or label map replaced by a corpus file."""
    data = make_folder(root / "data")
    (root / "made").mkdir()
    source = entry.make(root / "made")
    suffix = "".join(source.suffixes[-2:]) if source.name.endswith(".gz") else source.suffix
    for other in (data / place).glob("b.*"):
        other.unlink()
    target = data / place / f"b{suffix}"
    shutil.copy(source, target)
    return data, target


PLANNED = ["nifti: gzip cut", "nifti: NaN voxel", "nifti: RGB", "nifti: singular sform", "nrrd flipped", "mgz cut"]
LABELLED = ["label: fractions", "label: one-hot", "nifti: gzip wrong checksum"]


def test_plan_refuses_datasets_with_one_broken_file_in_one_line(tmp_path: Path) -> None:
    commands, targets, outputs = [], [], []
    for number, name in enumerate([*PLANNED, *LABELLED]):
        root = tmp_path / str(number)
        root.mkdir()
        data, target = dataset_with(root, CORPUS[name], place="labels" if number >= len(PLANNED) else "images")
        targets.append(target)
        outputs.append(root / "bundle")
        commands.append(["plan", "--data", str(data), "--output", str(outputs[-1]), "--quiet"])
    results = run_commands(commands, preload=PRELOAD_TORCH)
    wrong = [faults(ran, target, output) for ran, target, output in zip(results, targets, outputs, strict=True)]
    assert [what for what in wrong if what] == []


QUICK = [
    "nifti: NIfTI-2 big-endian",
    "nifti: one slice",
    "nifti: unicode name",
    "nifti: plain under a gzip name",
    "nrrd",
    "mgz",
    "dicom series",
]
# one voxel wide and 9 m long: 400 windows; its reading is tested with the readers
FULL = [n for n in LEGITIMATE if CORPUS[n].kind == "image" and "channels" not in n and "needle" not in n]


@pytest.mark.parametrize("names", [QUICK, pytest.param(FULL, marks=pytest.mark.slow)], ids=["quick", "all"])
def test_predict_segments_legitimate_oddities_on_their_own_grid(tmp_path: Path, bundle: Path, names: list[str]) -> None:
    """One run over all of them: every one succeeds, and each label map carries its input's shape and affine."""
    paths = made(tmp_path, names)
    rows = [f"case{number},{paths[name]}" for number, name in enumerate(names)]
    (tmp_path / "list.csv").write_text("\n".join(["name,image", *rows]), encoding="utf-8")
    words = [
        "predict",
        str(bundle),
        str(tmp_path / "list.csv"),
        "-o",
        str(tmp_path / "out"),
        "--no-preview",
        "--anyway",  # one of them says that it is a CT
        "--threads",
        "1",
    ]
    (ran,) = run_commands([words], preload=(), timeout_s=1200)
    assert ran.code == 0, ran.err
    for number, name in enumerate(names):
        label, source = read_label(tmp_path / "out" / f"case{number}.nii.gz"), read_header(paths[name])
        assert label.array.shape == source.shape, name
        np.testing.assert_allclose(label.affine, source.affine, rtol=1e-6, atol=1e-6, err_msg=name)
