"""What a site refuses before it opens anything, and what it refuses to send."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from medseg.collaboration.half import write_half
from medseg.collaboration.opening import open_image_site, open_label_site
from medseg.collaboration.sites import check_overrides
from medseg.commands.split import split_job
from medseg.commands.split_plan import WantedSplit, plan_split
from medseg.config import read_json
from medseg.errors import BundleError, ConfigError, DataError
from medseg.io.atomic import write_json
from medseg.layout import Layout
from tests.collaboration.split_samples import make_patients

GRIDS = {"CT": 28, "PET": 20}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("opening")
    data = make_patients(root / "data", ("CT", "PET"), label="PET", grids=GRIDS)
    wanted = WantedSplit(preset="resenc_unet", folds=3)
    plan_split(data, {"ct": ["CT"], "pet": ["PET"]}, "pet", root / "whole", wanted)
    return root / "whole"


def test_a_job_that_asks_for_anything_but_features_and_gradients_is_refused(bundle: Path) -> None:
    layout, job = split_job(bundle, {}, 0)
    for purpose in ("images", "raw", ""):
        with pytest.raises(ConfigError, match="sends features and gradients to train or predict, nothing else"):
            open_image_site(layout.site("ct").folder, dataclasses.replace(job, purpose=purpose))
    with pytest.raises(ConfigError, match="number format is 'pickle'"):
        open_label_site(layout.site("pet").folder, dataclasses.replace(job, wire="pickle"))


def test_a_site_that_claims_the_role_of_another_is_refused(bundle: Path) -> None:
    layout, job = split_job(bundle, {}, 0)
    record = layout.site("ct").record
    known = read_json(record)
    write_json(record, known | {"role": "labels"})
    try:
        with pytest.raises(ConfigError, match=r"'ct' has the role 'labels' .* one site has the labels \(pet\)"):
            open_image_site(layout.site("ct").folder, job)
    finally:
        write_json(record, known)
    with pytest.raises(ConfigError, match="'ct' has the role 'images'"):
        open_label_site(layout.site("ct").folder, job)


def test_another_grid_or_network_at_one_site_is_another_version(bundle: Path) -> None:
    layout, job = split_job(bundle, {}, 0)
    path = Layout(layout.site("ct").folder).train
    known = read_json(path)
    write_json(path, known | {"preprocessing_def": known["preprocessing_def"] | {"spacing": [2.0, 2.0, 2.0]}})
    try:
        with pytest.raises(BundleError, match="site 'ct' has another version of the bundle"):
            open_image_site(layout.site("ct").folder, job)
    finally:
        write_json(path, known)


def test_windows_smaller_than_the_bundles_are_not_answered(bundle: Path) -> None:
    layout, job = split_job(bundle, {}, 0)
    party = open_image_site(layout.site("ct").folder, job)
    label = open_label_site(layout.site("pet").folder, job)
    names = {f"encoder.sites.ct.{key}": value for key, value in party.encoder.state_dict().items()}
    write_half(layout.site("ct").folder, names, 1)
    party.load()
    party.geometry(label.references(["p0"]))
    with pytest.raises(ConfigError, match=r"windows of \[1, 1, 1\] voxels were asked for.*nothing smaller leaves"):
        party.window("p0", [[3, 3, 3]], [1, 1, 1])
    size = list(party.window_size)
    assert len(party.window("p0", [[0, 0, 0]], size)) == len(party.levels)


def test_images_of_one_patient_on_other_grids_are_brought_to_the_shared_one_and_the_plan_says_what_is_shared(
    bundle: Path,
) -> None:
    layout, job = split_job(bundle, {}, 0)
    party = open_image_site(layout.site("ct").folder, job)
    label = open_label_site(layout.site("pet").folder, job)
    party.geometry(label.prepare(["p0"]))
    assert party.images.arrays["p0"].shape[1:] == label.arrays["p0"].image.shape[1:]
    assert "shape and affine of pet's images" in read_json(layout.plan)["reasons"]["sites"]


def test_what_prediction_reads_too_cannot_be_overridden_for_a_training(bundle: Path) -> None:
    with pytest.raises(ConfigError, match="preprocessing_def is the same for all sites"):
        split_job(bundle, {"preprocessing_def::spacing": [1, 1, 1]}, 0)
    check_overrides({"train::module::learning_rate": 0.1, "roi_size": [32, 32, 32]})


def test_a_patient_who_is_not_at_the_label_site_is_named(bundle: Path) -> None:
    layout, job = split_job(bundle, {}, 0)
    with pytest.raises(DataError, match="'pet' has no labels of patient 'p9'"):
        open_label_site(layout.site("pet").folder, dataclasses.replace(job, cases=("p9",)))


def test_the_label_site_is_the_one_that_was_named_also_where_another_sends_full_resolution(
    bundle: Path, tmp_path: Path
) -> None:
    data = Path(read_json(Layout(bundle).site("ct").record)["data_folder"])
    wanted = WantedSplit(preset="resenc_unet", folds=3, finest_of={"ct": 0})
    plan_split(data, {"pet": ["PET"], "ct": ["CT"]}, "pet", tmp_path / "whole", wanted)
    layout, job = split_job(tmp_path / "whole", {}, 0)
    party = open_label_site(layout.site("pet").folder, job)
    assert party.name == "pet"
    assert sorted(party.network.encoder.sites) == ["pet"]  # type: ignore[arg-type, union-attr]
