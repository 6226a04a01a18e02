"""Every malformed input is refused in one line that names it; every odd but legitimate one gives the right voxels."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from medseg.errors import MedsegError
from medseg.io.volume import read_image, read_label
from tests.corpus.inputs import BROKEN, CORPUS, LEGITIMATE

pytestmark = pytest.mark.requirement("R1")

READERS = {"image": read_image, "label": read_label}


def test_corpus_has_the_size_that_was_promised() -> None:
    assert len(CORPUS) >= 80
    assert len(BROKEN) >= 60


@pytest.mark.parametrize("name", BROKEN)
def test_broken_input_is_refused_in_one_line_with_file_and_cause(tmp_path: Path, name: str) -> None:
    entry = CORPUS[name]
    path = entry.make(tmp_path)
    files = sorted(tmp_path.rglob("*"))
    begin = time.process_time()
    with pytest.raises(MedsegError, match=entry.error) as caught:
        READERS[entry.kind](path)
    assert time.process_time() - begin < 2
    message = str(caught.value)
    assert str(tmp_path) in message, "names the file or the folder of the series"
    assert "\n" not in message
    assert sorted(tmp_path.rglob("*")) == files, "leaves nothing behind"


@pytest.mark.parametrize("name", LEGITIMATE)
def test_legitimate_oddity_gives_the_right_voxels_and_geometry(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    entry = CORPUS[name]
    assert entry.expected is not None
    with caplog.at_level(logging.WARNING, logger="medseg"):
        volume = READERS[entry.kind](entry.make(tmp_path))
    array, affine = entry.expected()
    np.testing.assert_array_equal(volume.array, array)
    if affine is not None:
        np.testing.assert_allclose(volume.affine, affine, atol=1e-5)
    if entry.warning:
        assert re.search(entry.warning, caplog.text)
    else:
        assert not caplog.records


def test_no_broken_input_costs_more_than_200_mb(tmp_path: Path) -> None:
    """One process refuses all of them; its peak memory says the most that any one of them took."""
    paths = {}
    for number, name in enumerate(BROKEN):
        folder = tmp_path / str(number)
        folder.mkdir()
        paths[name] = (CORPUS[name].kind, str(CORPUS[name].make(folder)))
    script = """
import json, resource, sys
from medseg.errors import MedsegError
from medseg.io.volume import read_image, read_label
import isal.igzip, pydicom, psutil
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
idle, growth = peak(), {}
for name, (kind, path) in json.load(sys.stdin).items():
    before = peak()
    try: (read_label if kind == "label" else read_image)(path)
    except MedsegError: growth[name] = (peak() - before) / 1024
print(json.dumps({"idle": idle / 1024, "peak": peak() / 1024, "growth": growth}))
"""
    result = subprocess.run(
        [sys.executable, "-c", script], input=json.dumps(paths), capture_output=True, text=True, check=True
    )
    measured = json.loads(result.stdout)
    assert len(measured["growth"]) == len(BROKEN)
    assert measured["peak"] - measured["idle"] < 200, measured["growth"]


def test_reading_needs_neither_torch_nor_monai() -> None:
    script = (
        "import sys; import medseg.io, medseg.datasets, medseg.io.formats.dicom_seg\n"
        "heavy = [name for name in ('torch', 'monai', 'scipy', 'nibabel', 'SimpleITK', 'pydicom') if name in sys.modules]\n"
        "print(heavy)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
