"""A registered bundle comes back from MLflow and predicts; nothing of the data's names goes along."""

from __future__ import annotations

import functools
import sqlite3
from pathlib import Path

import mlflow
import nibabel
import numpy as np
import pandas as pd
import pytest

import medseg
from medseg.commands import predict
from medseg.commands.register import register_bundle, requirements
from medseg.errors import BundleError
from medseg.layout import Layout


def test_registered_bundle_comes_back_and_predicts(
    bundle: Layout, bundle_and_data: tuple[Layout, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = functools.partial(predict.predict_bundle, options=predict.PredictOptions(engine="eager"))
    monkeypatch.setattr(predict, "predict_bundle", plain)  # timing the engines takes longer than this test
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    facts = register_bundle(bundle.folder, tracking_uri=uri)
    assert (facts["name"], facts["version"], facts["alias"]) == ("tiny_mr_unet", "1", "champion")
    again = register_bundle(bundle.folder, tracking_uri=uri)
    assert again["version"] == "2"

    data = bundle_and_data[1]
    image = data / "images" / "case0.nii.gz"
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    model = mlflow.pyfunc.load_model("models:/tiny_mr_unet@champion")
    assert model.metadata.signature.inputs.input_names() == ["image"]
    answer = model.predict(pd.DataFrame({"image": [str(image)]}), params={"output_folder": str(tmp_path / "served")})
    medseg.predict(bundle.folder, [str(image)], tmp_path / "verb", preview=False)
    served, verb = nibabel.load(answer["label"][0]), nibabel.load(tmp_path / "verb" / "case0.nii.gz")
    np.testing.assert_array_equal(np.asarray(served.dataobj), np.asarray(verb.dataobj))

    stored = [path for path in (bundle.runs / "mlartifacts").rglob("*") if path.is_file()]
    assert not [path for path in stored if path.suffix in (".pkl", ".pickle")]
    names_of_data = (str(data).encode(), b"case0")
    assert not [path for path in stored if any(name in path.read_bytes() for name in names_of_data)]
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        dump = "\n".join(connection.iterdump())
    assert str(data) not in dump
    assert "case0" not in dump


def test_requirements_are_exact(bundle: Layout) -> None:
    from medseg.bundle.configs.metadata import read_metadata

    found = requirements(read_metadata(bundle.folder))
    assert f"medseg=={medseg.__version__}" in found
    assert all("==" in line and "+" not in line for line in found)


@pytest.mark.parametrize(
    ("package", "version"),
    [
        ("--index-url http://127.0.0.1/simple\nevil", "1"),
        ("evil @ http://127.0.0.1/evil.zip #", "1"),
        ("-r /etc/passwd", "1"),
        ("-e", "."),
        ("./evil", "1"),
        ("evil", "1\n--index-url http://127.0.0.1"),
        ("evil", "1 --hash=sha256:0"),
        ("evil", "1; python_version > '3'"),
        ("evil", "@ http://127.0.0.1/evil.zip"),
        ("evil", " @ file:///tmp/evil.zip"),
        ("evil", "===http://127.0.0.1"),
        ("evil==1", "1"),
        ("evil\u2028x", "1"),
        ("evil", ""),
        ("", "1"),
        ("evil", ["1"]),
        ("evil", {"version": "1"}),
    ],
)
def test_requirement_that_is_no_name_with_versions_is_refused(package: str, version: object) -> None:
    with pytest.raises(BundleError, match=r"metadata.json: the requirement"):
        requirements({"required_packages_version": {package: version}})


def test_own_versions_are_requirements_too_and_are_judged() -> None:
    with pytest.raises(BundleError, match="torch"):
        requirements({"pytorch_version": "2 @ http://127.0.0.1/evil.zip"})
    with pytest.raises(BundleError, match="expected package names"):
        requirements({"required_packages_version": ["--pre"]})


def test_plain_requirements_are_written_and_unknown_packages_named(caplog: pytest.LogCaptureFixture) -> None:
    table = {"nibabel": "5.3.2", "monai[nibabel,tqdm]": ">=1.6,<2", "never-heard-of": "0.1"}
    lines = requirements({"pytorch_version": "2.11.0+cu130", "required_packages_version": table})
    assert lines == ["monai[nibabel,tqdm]<2,>=1.6", "never-heard-of==0.1", "nibabel==5.3.2", "torch==2.11.0"]
    assert "will install never-heard-of" in caplog.text


def test_untrained_bundle_is_not_registered(bundle: Layout) -> None:
    bundle.weights.unlink()
    with pytest.raises(BundleError, match="train the bundle"):
        register_bundle(bundle.folder)
