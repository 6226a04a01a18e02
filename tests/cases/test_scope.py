"""Cases outside of what a model was made for are warned of by name, and usual ones are not."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medseg.cases.preview import Picture
from medseg.cases.scope import Scope, modality_of, stamp_of, sum_up
from medseg.cli.main import main
from medseg.io import Header, Volume, read_image
from medseg.planning.plan import Plan
from tests.io.dicom_maker import make_series

pytestmark = pytest.mark.requirement("Scope")

FINGERPRINT = {
    "median_shape": [100.0, 80.0, 40.0],
    "median_spacing": [1.0, 1.0, 2.0],
    "largest_shape": [120, 100, 50],
    "smallest_spacing": [0.9, 0.9, 2.0],
    "largest_spacing": [1.1, 1.1, 2.5],
    "intensity": [{"p0_5": -100.0, "p99_5": 200.0}],
}


def volume(
    shape: tuple[int, ...] = (100, 80, 40),
    spacing: tuple[float, ...] = (1, 1, 2),
    *,
    modality: str = "",
    shift: float = 0,
) -> Volume:
    array = np.random.default_rng(0).normal(50, 30, (1, *shape)).astype(np.float32) + np.float32(shift)
    header = dataclasses.replace(Header.of_array(shape, np.diag([*spacing, 1.0])), modality=modality)
    return Volume(array, header.affine, header)


SCOPE = Scope({0: "CT"}, FINGERPRINT)


def test_a_usual_case_gives_no_warning() -> None:
    assert SCOPE.warnings(volume()) == []
    assert SCOPE.warnings(volume(modality="CT", spacing=(0.8, 1.2, 3.0))) == []


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (volume(modality="MR"), "modality MR; the model was made for CT"),
        (volume(spacing=(1, 1, 8), shape=(100, 80, 10)), "spacing 1 x 1 x 8 mm; the training data had 0.9 to 1.1"),
        (volume(shape=(100, 80, 8)), "field of view 100 x 80 x 16 mm; the training data had 100 x 80 x 80 mm"),
        (volume(shift=5000), "intensities .*; the training labels had -100 to 200"),
    ],
)
def test_each_property_is_named_with_what_was_found_and_expected(case: Volume, words: str) -> None:
    (sentence,) = SCOPE.warnings(case)
    assert sentence.startswith(words.split(" .*")[0])
    assert words.rpartition(".*")[2] in sentence


def test_axes_are_compared_in_the_patients_directions() -> None:
    """The same scan stored sagittally is no other scan."""
    turned = np.zeros((4, 4))
    turned[0, 2], turned[1, 0], turned[2, 1], turned[3, 3] = 1.0, 1.0, 2.0, 1.0
    header = Header.of_array((80, 40, 100), turned)
    array = np.full((1, 80, 40, 100), 50, np.float32)
    assert SCOPE.warnings(Volume(array, header.affine, header)) == []


def test_without_a_fingerprint_only_the_modality_is_known() -> None:
    assert Scope({0: "MRI"}).warnings(volume((3, 3, 3), (9, 9, 9), shift=1e6)) == []
    assert len(Scope({0: "MRI"}).warnings(volume(modality="CT"))) == 1
    assert Scope({0: "image"}).warnings(volume(modality="CT")) == []


def test_intensities_that_are_scaled_image_by_image_are_not_warned_of() -> None:
    strange = volume(shift=5000)
    assert Scope({0: "CT"}, FINGERPRINT, frozenset({0})).warnings(strange) == []
    assert Scope({0: "T1w"}, FINGERPRINT).warnings(strange) == []


def test_another_modality_stops_unless_a_user_insists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_series(tmp_path / "scans" / "computed")
    words = [
        "predict",
        "hippocampus_mr_mambavision",
        str(tmp_path / "scans"),
        "-o",
        str(tmp_path / "out"),
        "--device",
        "cpu",
    ]
    assert main(words) == 1
    said = capsys.readouterr().err
    assert "modality CT; the model was made for MR; to predict it anyway: --anyway" in said
    assert not (tmp_path / "out" / "computed.nii.gz").exists()
    assert main([*words, "--anyway"]) == 0
    record = json.loads((tmp_path / "out" / "computed.json").read_text())
    assert record["out_of_scope"][0].startswith("modality CT")
    reference = str(tmp_path / "out" / "computed.nii.gz")
    evaluate = ["evaluate", "--prediction", reference, "--reference", reference, "--output", str(tmp_path / "report")]
    assert main(evaluate) == 0
    assert "OUT OF SCOPE: modality CT" in (tmp_path / "report" / "report.html").read_text()


def test_the_picture_of_a_case_outside_is_stamped() -> None:
    picture = Picture.of(np.zeros((9, 9, 9), np.float32), np.eye(4))
    label = np.ones((9, 9, 9), np.uint8)
    plain, stamped = (
        np.asarray(Image.open(io.BytesIO(picture.png(label, {1: "a"}, stamp=stamp_of(found)))))
        for found in ([], ["modality CT; the model was made for MR"])
    )
    red = (stamped == (212, 0, 0)).all(axis=-1)
    assert red[:20].mean() > 0.5
    assert not (plain == (212, 0, 0)).all(axis=-1).any()


def test_a_folder_is_summed_up_in_one_line() -> None:
    found = {"a": ["spacing 1 mm"], "b": [], "c": ["spacing 2 mm", "field of view 3 mm"]}
    assert sum_up(found).startswith(
        "2 of 3 cases are outside of what this model was made for: spacing (2), field of view (1)"
    )
    assert sum_up({"a": []}) == ""
    assert sum_up({"a": ["spacing 1 mm"]}) == "outside of what this model was made for: spacing 1 mm"


def test_channel_names_become_modalities() -> None:
    assert [modality_of(name) for name in ("FLAIR", "Ct", "PET", "noNorm", "direct")] == ["MR", "CT", "PT", "", ""]


@pytest.mark.data
def test_real_training_cases_lie_inside_and_another_organ_outside(real_data: Path) -> None:
    """The shipped hippocampus model: none of 40 of its own volumes is warned of; a whole head is."""
    plan = Plan.read(Path(__file__).parents[2] / "bundles" / "hippocampus_mr_mambavision" / "plan.json")
    scope = Scope(plan.channels, plan.fingerprint)
    volumes = sorted(path for path in real_data.rglob("hippocampus_*.nii.gz") if path.parent.name == "imagesTr")[:40]
    if not volumes:
        pytest.skip("real volumes: MEDSEG_DATA is not set")
    assert [path.name for path in volumes if scope.warnings(read_image(path))] == []
    whole = volume((180, 220, 180), (1, 1, 1), shift=100)
    assert any("field of view" in sentence for sentence in scope.warnings(whole))
