"""`medseg view` shows every readable format, and says what it cannot show or shows otherwise."""

from __future__ import annotations

import gzip
import http.client
import json
import threading
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from medseg.cli.main import main
from medseg.commands.view import open_view
from medseg.errors import DataError, LabelError
from medseg.io.header import Header
from medseg.io.volume import write_image, write_label
from tests.io.dicom_maker import make_series

SHAPE = (14, 12, 10)
AFFINE = np.array([[-1.5, 0, 0, 9], [0, -1.5, 0, 8], [0, 0, 3, -40], [0, 0, 0, 1.0]])


def _image() -> np.ndarray:
    return np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)


def _label() -> np.ndarray:
    label = np.zeros(SHAPE, np.uint8)
    label[3:6, 3:6, 3:6], label[8:10, 8:10, 5:7] = 1, 4
    return label


def _write(folder: Path, suffix: str = ".nii.gz") -> tuple[Path, Path]:
    scan, label = folder / f"scan{suffix}", folder / f"label{suffix}"
    write_image(scan, _image(), Header.of_array(SHAPE, AFFINE))
    write_label(label, _label(), Header.of_array(SHAPE, AFFINE))
    return scan, label


def _shown(*words: Any, **options: Any) -> tuple[str, dict[str, Any], dict[str, nibabel.Nifti1Image]]:
    """The page, the facts in it, the volumes it would fetch."""
    with open_view(*words, **options) as server:
        contents = {name: content for name, (_, content) in server.contents.items()}
    page = contents.pop("").decode()
    facts = json.loads(page.split('id="viewer-cases">')[1].split("</script>")[0])["cases"][0]
    files = {
        name.removeprefix("volume/"): nibabel.Nifti1Image.from_bytes(content) for name, content in contents.items()
    }
    return page, facts, files


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_every_format_is_shown_voxel_by_voxel(tmp_path: Path, suffix: str) -> None:
    page, facts, files = _shown(*_write(tmp_path, suffix), names={1: "liver"})
    image, label = files["image"], files["prediction"]
    index = np.linalg.inv(AFFINE) @ image.affine @ [2, 3, 4, 1]
    voxel = tuple(int(i) for i in np.round(index[:3]))
    assert np.allclose(index[:3], voxel, atol=1e-4)
    assert image.get_fdata()[2, 3, 4] == _image()[voxel]
    assert np.count_nonzero(label.get_fdata() == 1) == 27
    assert [row["name"] for row in facts["labels"]] == ["liver", "4 (undeclared: no name is known for it)"]
    assert facts["labels"][0]["prediction"] == f"{27 * 6.75 / 1000:.3g} ml"
    assert "connect-src &#39;self&#39;" in page
    assert "data:image/png" in page
    assert str(tmp_path) not in page


def test_a_dicom_folder_is_shown(tmp_path: Path) -> None:
    make_series(tmp_path / "series")
    page, facts, files = _shown(tmp_path / "series")
    assert files["image"].shape
    assert set(files) == {"image"}
    assert "dicom" in page
    assert facts["labels"] == []


def test_a_label_on_another_grid_is_brought_to_the_scans_and_that_is_said(tmp_path: Path) -> None:
    scan, _ = _write(tmp_path)
    half = AFFINE @ np.diag([0.5, 0.5, 1.0, 1.0])
    fine = np.kron(_label(), np.ones((2, 2, 1), np.uint8))
    write_label(tmp_path / "fine.nrrd", fine, Header.of_array(fine.shape, half))
    _, facts, files = _shown(scan, tmp_path / "fine.nrrd")
    assert abs(np.count_nonzero(files["prediction"].get_fdata() == 1) - 27) <= 9
    assert any(
        note.startswith("fine.nrrd lies on another grid (shape (14, 12, 10) vs (28, 24, 10))")
        for note in facts["notes"]
    )
    far = AFFINE.copy()
    far[:3, 3] += 5000
    write_label(tmp_path / "far.nii.gz", _label(), Header.of_array(SHAPE, far))
    notes = _shown(scan, tmp_path / "far.nii.gz")[1]["notes"]
    assert any("No labelled voxel of far.nii.gz lies inside the scan" in note for note in notes)


def test_a_large_volume_is_thinned_out_and_that_is_said(tmp_path: Path) -> None:
    _, facts, files = _shown(*_write(tmp_path), most_voxels=500)
    assert np.prod(files["image"].shape) <= 500
    assert any(note.startswith("Thinned out to") for note in facts["notes"])
    assert facts["labels"][0]["prediction"] == f"{27 * 6.75 / 1000:.3g} ml"
    long = np.zeros((1500, 2, 2), np.float32)
    write_image(tmp_path / "long.nii.gz", long, Header.of_array(long.shape, np.eye(4)))
    _, facts, files = _shown(tmp_path / "long.nii.gz")
    assert max(files["image"].shape) <= 1024
    assert "Every voxel of the image is 0." in facts["notes"]


def test_one_channel_of_several_is_shown_and_which(tmp_path: Path) -> None:
    both = np.stack([_image(), -_image()])
    write_image(tmp_path / "two.nii.gz", both, Header.of_array(both.shape, AFFINE))
    _, facts, files = _shown(tmp_path / "two.nii.gz", channel=1)
    assert files["image"].get_fdata().max() == 0
    assert facts["notes"][0] == "Channel 1 of 2 (0 to 1): another is chosen with --channel."
    with pytest.raises(DataError, match=r"has 2 channel\(s\), counted from 0; there is no channel 2"):
        open_view(tmp_path / "two.nii.gz", channel=2)
    with pytest.raises(LabelError):
        open_view(tmp_path / "two.nii.gz", tmp_path / "two.nii.gz")


def test_what_cannot_be_shown_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scan, label = _write(tmp_path)
    holes = _image()
    holes[0, 0, 0] = np.nan
    nibabel.save(nibabel.Nifti1Image(holes, AFFINE), tmp_path / "nan.nii.gz")
    (tmp_path / "cut.nii.gz").write_bytes(gzip.compress(b"no volume"))
    for words, found in (
        (["view", str(tmp_path / "nan.nii.gz")], "holds nan at voxel"),
        (["view", str(tmp_path / "none.nii.gz")], "none.nii.gz"),
        (["view", str(tmp_path / "cut.nii.gz")], "cut.nii.gz"),
        (["view", str(scan), str(scan), "--channel", "3"], "no channel 3"),
        (["view", str(scan), str(label), "--labels", "nowhere"], "nowhere"),
        (["view", str(scan), "--port", "70000"], "port 70000"),
    ):
        assert main([*words, "--no-browser", "--quiet"]) == 1
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert found in line


def test_the_verb_prints_the_address_and_serves_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from medseg.server.app import PageServer

    answers, opened = [], []

    def serve(self: PageServer) -> None:
        thread = threading.Thread(target=super(PageServer, self).serve_forever, daemon=True)
        thread.start()
        connection = http.client.HTTPConnection("127.0.0.1", self.server_port, timeout=20)
        for name in ("", "volume/image", "volume/prediction", "volume/reference", "volume/disagreement"):
            connection.request("GET", f"/{self.token}/{name}")
            answers.append(len(connection.getresponse().read()))
        self.shutdown()

    monkeypatch.setattr(PageServer, "serve_forever", serve)
    monkeypatch.setattr("webbrowser.open", opened.append)
    scan, label = _write(tmp_path)
    assert (
        main(["view", str(scan), str(label), "--reference", str(label), "--labels", "1=liver,4=spleen", "--json"]) == 0
    )
    address = json.loads(capsys.readouterr().out)["address"]
    assert opened == [address]
    assert address.startswith("http://127.0.0.1:")
    assert min(answers) > 1000
