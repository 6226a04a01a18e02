"""`--resume` knows the data: with other labels, images or folds a run begins again, and what it had is kept."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from medseg.commands.fit import fit_bundle
from medseg.errors import ConfigError
from medseg.io.datalist import Case
from medseg.layout import Layout
from medseg.tracking.manifest import data_fingerprint
from medseg.training.data_record import changes_since, data_hash, differences, record_of
from tests.bundle.samples import make_bundle

QUICK = {"max_epochs": 1, "steps_per_epoch": 1, "batch_size": 1, "num_workers": 0, "train::trainer::tracking": False}
LONGER = {**QUICK, "max_epochs": 2}


def file(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_each_kind_of_change_is_named(tmp_path: Path) -> None:
    def case(name: str, image: str, label: str, **facts: object) -> Case:
        images = (file(tmp_path / f"{name}_{image}.nrrd", image),)
        return Case(name, images, file(tmp_path / f"{name}_{label}_l.nrrd", label), **facts)  # type: ignore[arg-type]

    a, b, c = (case(name, "1", "1") for name in "abc")
    before = record_of([a, b], [c])
    assert differences(json.loads(json.dumps(before)), record_of([b, a], [c])) == ""
    assert data_hash(before) == data_fingerprint([c, b, a])
    for now, words in (
        (record_of([a, c], [b]), "'b' was in training and is in validation by the split now"),
        (record_of([a, b, case("d", "1", "1")], [c]), "'d' is new"),
        (record_of([a], [c]), "'b' is no longer there"),
        (record_of([case("a", "2", "1"), b], [c]), "'a' has another image"),
        (record_of([a, case("b", "1", "2")], [case("c", "1", "2")]), "'b', 'c': each has another label map"),
        (record_of([a, case("b", "1", "1", labels_present=(1,))], [c]), "'b' declares other labels"),
        (record_of([a, case("b", "1", "1", missing=(1,))], [c]), "'b' lacks other channels"),
    ):
        assert words in differences(before, now)
    old = tmp_path / "run_of_0.1"
    old.mkdir()
    assert changes_since(old, before) == ""
    (old / "manifest.json").write_text(json.dumps({"data_sha256": data_hash(before)}))
    assert changes_since(old, before) == ""
    assert "other contents" in changes_since(old, record_of([a, b], [case("c", "2", "1")]))


def weights(layout: Layout) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(layout.fold_weights(0), weights_only=True)
    return state


def test_a_run_on_other_data_begins_again_and_a_finished_one_is_trained_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = make_bundle(tmp_path / "b", tmp_path / "data")
    fit_bundle(layout.folder, overrides=QUICK, device="cpu")
    fit_bundle(layout.folder, overrides=LONGER, resume=True, device="cpu")  # the same data: it goes on
    assert not list(layout.runs.glob("*previous*"))
    label = tmp_path / "data" / "labels" / "case1.nii.gz"
    image = nibabel.load(label)
    voxels = np.asarray(image.dataobj).copy()
    voxels[12:14] = 1
    nibabel.save(nibabel.Nifti1Image(voxels, image.affine), label)
    layout.run(0).result.unlink()  # as if it had been stopped
    with monkeypatch.context() as patch:
        patch.setenv("WORLD_SIZE", "2")
        with pytest.raises(ConfigError, match="'case1' has another label map; train without --resume"):
            fit_bundle(layout.folder, overrides=LONGER, resume=True, device="cpu")
    caplog.clear()
    fit_bundle(layout.folder, overrides=LONGER, resume=True, device="cpu")
    assert "'case1' has another label map; it begins again" in caplog.text
    assert [path.name for path in layout.runs.glob("*previous*")] == ["fold_0.previous_1"]
    assert layout.run(0).config.is_file()
    assert json.loads(layout.run(0).metrics.read_text())[-1]["step"] == 2
    layout.splits.write_text(json.dumps([{"train": ["case0", "case1"], "val": ["case2"]}]))
    caplog.clear()
    fit_bundle(layout.folder, fold="all", overrides=LONGER, resume=True, device="cpu")
    assert "fold 0 is finished, but the data are other ones now" in caplog.text
    assert "'case0' was in validation and is in training by the split now" in caplog.text
    caplog.clear()
    fit_bundle(layout.folder, fold="all", overrides=LONGER, resume=True, device="cpu")
    assert "again" not in caplog.text
