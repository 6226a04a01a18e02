"""MONAI's bundle commands on every bundle that the project ships, and predict from an installed package without a network.

`verify_metadata`, `verify_net_in_out`, `ckpt_export` and the properties are in test_zoo_checks.py, for every bundle too.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import monai.bundle
import nibabel
import numpy as np
import pytest
import torch

from medseg.bundle.load import load_bundle
from medseg.commands.predict import predict_bundle
from medseg.inference.settings import PredictOptions
from medseg.layout import Layout
from tests.bundle.samples import make_dataset
from tests.bundle.shipped import each_shipped, shipped

REPOSITORY = Path(__file__).parents[2]
SHAPE = (45, 58, 43)  # larger than the hippocampus window on every axis


def command(*words: str, folder: Path, **environment: str) -> None:
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **environment}
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=570, env=variables, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]


def files_of(layout: Layout) -> dict[str, str]:
    return {"meta_file": str(layout.metadata), "config_file": str(layout.inference)}


@each_shipped
def test_init_bundle_makes_nothing_that_ours_lacks(layout: Layout, tmp_path: Path) -> None:
    monai.bundle.init_bundle(str(tmp_path / "fresh"), ckpt_file=str(layout.weights))
    for path in (tmp_path / "fresh").rglob("*"):
        assert (layout.folder / path.relative_to(tmp_path / "fresh")).exists(), path.name


@each_shipped
def test_load_gives_the_network_with_its_weights(layout: Layout) -> None:
    network = monai.bundle.load(
        layout.folder.name, bundle_dir=str(layout.folder.parent), workflow_type="inference", device="cpu"
    )
    expected = load_bundle(layout.folder).network().state_dict()
    assert set(network.state_dict()) == set(expected)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, expected[name])


@pytest.mark.slow
@each_shipped
def test_run_gives_the_labels_of_the_verb(layout: Layout, tmp_path: Path) -> None:
    make_dataset(tmp_path / "data", count=1, shape=SHAPE)
    images = tmp_path / "data" / "images"
    flow = monai.bundle.ConfigWorkflow(
        config_file=str(layout.inference),
        workflow_type="infer",
        logging_file=False,
        bundle_root=str(layout.folder),
        dataset_dir=str(images),
        output_dir=str(tmp_path / "monai"),
    )
    flow.initialize()
    flow.run()
    flow.finalize()
    predict_bundle(
        layout.folder, [str(images)], tmp_path / "verb", options=PredictOptions(engine="eager"), preview=False
    )
    ours, theirs = (nibabel.load(tmp_path / name) for name in ("verb/case0.nii.gz", "monai/case0_seg.nii.gz"))
    assert np.mean(np.asarray(ours.dataobj) == np.asarray(theirs.dataobj)) >= 0.9999
    np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-6)


@pytest.mark.slow
@each_shipped
def test_onnx_export_equals_eager(layout: Layout, tmp_path: Path) -> None:
    """The command as a user types it."""
    import onnxruntime

    words = [sys.executable, "-m", "monai.bundle", "onnx_export", "network_def", "--filepath", "model.onnx"]
    for key, value in {**files_of(layout), "ckpt_file": str(layout.weights)}.items():
        words += [f"--{key}", value]
    command(*words, folder=tmp_path)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    opened = load_bundle(layout.folder)
    # the command exports the shape that metadata.json names
    image = torch.rand(*[size if isinstance(size, int) else 1 for size in session.get_inputs()[0].shape])
    assert tuple(image.shape[2:]) == opened.roi_size
    with torch.no_grad():
        expected = opened.network()(image)
    found = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: image.numpy()})[0])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@each_shipped
def test_two_processes_train_on(layout: Layout, tmp_path: Path) -> None:
    """torchrun with two gloo processes and multi_gpu_train.json, one step on volumes made up here."""
    copy = Layout(Path(shutil.copytree(layout.folder, tmp_path / layout.folder.name)))
    names = make_dataset(tmp_path / "data", count=3, shape=SHAPE)
    copy.splits.write_text(json.dumps([{"train": names[1:], "val": names[:1]}]))
    files = f"['{copy.train}','{copy.multi_gpu_train}']"
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "monai.bundle", "run"]
    settings = {"max_epochs": "1", "steps_per_epoch": "2", "batch_size": "1", "val_interval": "1"}
    words += ["--config_file", files, "--dataset_dir", str(tmp_path / "data")]
    words += [word for key, value in settings.items() for word in (f"--{key}", value)]
    store = str(tmp_path / "store")
    command(sys.executable, *words, folder=tmp_path, MEDSEG_STORE=store)
    facts = json.loads((copy.run_folder(0) / "result.json").read_text())
    assert facts["steps"] >= 1
    assert copy.weights.read_bytes() != layout.weights.read_bytes()


NO_NETWORK = """
import socket

def refuse(self, address):
    if self.family != socket.AF_UNIX:
        raise OSError("no network in this test")

socket.socket.connect = refuse
socket.socket.connect_ex = refuse
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel that a source archive of the repository builds, unpacked."""
    out = tmp_path_factory.mktemp("dist")
    command(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(REPOSITORY), folder=out)
    assert list(out.glob("*.tar.gz"))
    with zipfile.ZipFile(next(out.glob("*.whl"))) as wheel:
        wheel.extractall(out / "site")
    (out / "site" / "sitecustomize.py").write_text(NO_NETWORK)
    return out / "site"


@pytest.mark.slow
def test_an_installed_package_predicts_with_every_bundle_offline(installed: Path, tmp_path: Path) -> None:
    """`medseg predict NAME scan.nii.gz`, away from the source tree, with every connection refused."""
    make_dataset(tmp_path / "data", count=1, shape=SHAPE)
    scan = tmp_path / "data" / "images" / "case0.nii.gz"
    for layout in shipped():
        name = layout.folder.name
        words = [sys.executable, "-m", "medseg", "predict", name, str(scan), "--output", str(tmp_path / name)]
        command(*words, folder=tmp_path, PYTHONPATH=str(installed), MEDSEG_BUNDLES=str(tmp_path / "none"))
        record = json.loads((tmp_path / name / "case0.json").read_text())
        assert record
        label = nibabel.load(tmp_path / name / "case0.nii.gz")
        assert label.shape == SHAPE
        assert set(np.unique(np.asarray(label.dataobj))) <= set(load_bundle(layout.folder).labels)
