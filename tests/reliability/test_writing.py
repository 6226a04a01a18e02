"""R2, R7, R14 and R15 for reading and writing: nothing half-written, nothing leaked, nothing kept open, under load."""

from __future__ import annotations

import gzip
import subprocess
import sys
import threading
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil
import pytest

from medseg.errors import MedsegError, ResourceError
from medseg.io.header import Header
from medseg.io.volume import read_header, read_image, read_label, write_image, write_label
from tests.io.dicom_maker import make_series

SHAPE = (24, 20, 16)
FORMATS = [".nii.gz", ".nii", ".nrrd", ".mha"]


def noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 200, SHAPE).astype(np.uint8)


@pytest.mark.requirement("R2")
@pytest.mark.parametrize("suffix", FORMATS)
def test_every_truncation_point_gives_the_good_voxels_or_an_error(tmp_path: Path, suffix: str) -> None:
    """R2: a reader that fills up with zeros would be found here."""
    good = noise()
    write_label(tmp_path / f"a{suffix}", good, Header.of_array(SHAPE, np.eye(4)))
    content = (tmp_path / f"a{suffix}").read_bytes()
    for length in [*range(0, len(content), max(1, len(content) // 60)), len(content) - 1]:
        (tmp_path / f"b{suffix}").write_bytes(content[:length])
        with pytest.raises(MedsegError, match="b\\."):
            read_label(tmp_path / f"b{suffix}")


@pytest.mark.requirement("R7")
@pytest.mark.parametrize("suffix", FORMATS)
def test_full_disk_while_writing_names_the_file_and_leaves_nothing(tmp_path: Path, suffix: str) -> None:
    """R7: the kernel refuses the write in the middle of the file, as a full disk does."""
    script = f"""
import resource, signal, sys
import numpy as np
from medseg.errors import ResourceError
from medseg.io.header import Header
from medseg.io.volume import write_label
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
label = np.random.default_rng(0).integers(0, 200, {SHAPE}).astype(np.uint8)
try:
    write_label({str(tmp_path / "out") + "/label" + suffix!r}, label, Header.of_array(label.shape, np.eye(4)))
except ResourceError as error:
    sys.exit(str(error))
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert f"label{suffix}: cannot be written: File too large" in result.stderr
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.requirement("R7")
def test_output_that_is_a_file_or_below_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file, not a folder")
    with pytest.raises(ResourceError, match=r"out/label\.nii\.gz: cannot be written"):
        write_label(tmp_path / "out" / "label.nii.gz", noise(), Header.of_array(SHAPE, np.eye(4)))
    assert (tmp_path / "out").read_text() == "a file, not a folder"


@pytest.mark.requirement("R7")
def test_two_writers_on_one_output_leave_one_whole_winner(tmp_path: Path) -> None:
    """R7: eight threads write two label maps to one name; every read in between gives one of them, whole."""
    maps, like, path = [noise(1), noise(2)], Header.of_array(SHAPE, np.eye(4)), tmp_path / "label.nii.gz"
    write_label(path, maps[0], like)
    threads = [threading.Thread(target=write_label, args=(path, maps[number % 2], like)) for number in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        found = read_label(path).array  # read once: between two reads a writer may come
        assert any(np.array_equal(found, one) for one in maps)
    for thread in threads:
        thread.join()
    assert [one.name for one in tmp_path.iterdir()] == ["label.nii.gz"]


@pytest.mark.requirement("R6")
def test_kill_in_the_middle_of_writing_leaves_the_old_file(tmp_path: Path) -> None:
    """R6 for one file: a process killed while it writes; the final name still reads as before."""
    path = tmp_path / "label.nii"
    write_label(path, noise(1), Header.of_array(SHAPE, np.eye(4)))
    script = f"""
import os, signal, threading, time
import numpy as np
from medseg.io.header import Header
from medseg.io.volume import write_label
threading.Thread(target=lambda: (time.sleep(0.05), os.kill(os.getpid(), signal.SIGKILL))).start()
large = np.random.default_rng(0).integers(0, 200, (256, 256, 200)).astype(np.uint8)
while True:
    write_label({str(tmp_path / "label.nii")!r} + ".gz", large, Header.of_array(large.shape, np.eye(4)))
"""
    subprocess.run([sys.executable, "-c", script], check=False)
    np.testing.assert_array_equal(read_label(path).array, noise(1))
    final = tmp_path / "label.nii.gz"
    assert not final.exists() or read_label(final).array.shape == (256, 256, 200)


@pytest.mark.requirement("R14")
def test_names_in_headers_do_not_reach_outputs(tmp_path: Path) -> None:
    """R14: a canary in every text field of the input, in its extension, in DICOM tags and in file names."""
    image = nib.Nifti1Image(noise().astype(np.int16), np.eye(4))
    for name in ("descrip", "aux_file", "db_name", "intent_name"):
        image.header[name] = b"CANARY"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"CANARY" * 8))
    nib.save(image, tmp_path / "CANARY.nii")
    make_series(tmp_path / "CANARY")
    for source in (tmp_path / "CANARY.nii", tmp_path / "CANARY"):
        header = read_header(source)
        for suffix in FORMATS:
            output = tmp_path / f"result{suffix}"
            write_label(output, np.zeros(header.shape, np.uint8), header)
            content = output.read_bytes()
            plain = gzip.decompress(content) if suffix == ".nii.gz" else b""
            assert b"canary" not in (content + plain).lower()


@pytest.mark.slow
@pytest.mark.requirement("R15")
def test_a_thousand_cases_keep_no_memory_no_descriptor_no_temporary_file(tmp_path: Path) -> None:
    """R15 for reading and writing."""
    array, like = noise().astype(np.float32), Header.of_array(SHAPE, np.eye(4))
    write_image(tmp_path / "scan.nii.gz", array, like)
    process = psutil.Process()

    def one_case(number: int) -> None:
        volume = read_image(tmp_path / "scan.nii.gz")
        write_label(tmp_path / "out" / f"{number % 10}.nii.gz", (volume.array[0] > 100).astype(np.uint8), volume.header)

    for number in range(100):
        one_case(number)
    memory, descriptors = process.memory_info().rss, process.num_fds()
    for number in range(1000):
        one_case(number)
    assert process.memory_info().rss <= 1.05 * memory
    assert process.num_fds() <= descriptors
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"{number}.nii.gz" for number in range(10)]
