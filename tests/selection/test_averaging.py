"""After `fit --fold all` every finished fold predicts, for medseg and MONAI alike; none scores a case that it saw."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow, ckpt_export

from medseg.bundle.catalogue import find_bundle
from medseg.bundle.checks.verify import CHECKS, _open, verify_bundle
from medseg.bundle.load import load_bundle
from medseg.bundle.weights import read_state_dict
from medseg.cli.main import main
from medseg.commands.export import export_bundle
from medseg.errors import BundleError
from medseg.inference import SlidingWindowInferer
from medseg.io.atomic import temporary_beside
from medseg.io.volume import read_image, read_label
from medseg.layout import Layout
from medseg.selection.averaging import average_finished, members_of, own_network, use_networks
from tests.bundle.samples import make_bundle
from tests.volumes import make_case

QUICK = ["max_epochs=1", "steps_per_epoch=3", "batch_size=1", "num_workers=0", "roi_size=[16,16,16]"]
EAGER = ("--engine", "eager", "--no-preview", "--quiet", "--device", "cpu")


def run(*words: str) -> tuple[int, str]:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = main(list(words))
    return code, out.getvalue()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A bundle after `fit --fold 0` and after `fit --fold all --resume`, and what fit said last."""
    place, said = tmp_path_factory.mktemp("averaged"), {}
    for index in range(4):
        make_case(place / "data", f"ball_{index}", radius=4.0 + index / 3, seed=index)
    bundle = str(place / "balls")
    settings = [*QUICK[:-1], "train::trainer::tracking=false"]
    wanted = ("--preset", "resenc_unet", "--folds", "3", "--quiet")
    assert run("plan", "--data", str(place / "data"), "--output", bundle, *wanted)[0] == 0
    for name, words in {"one": ("--fold", "0"), "all": ("--fold", "all", "--resume")}.items():
        code, out = run("fit", bundle, *settings, *words)
        assert code == 0
        said[name] = out.splitlines()[-1]
        if name == "one":
            shutil.copytree(bundle, place / "one")
    return place, said


def segment(bundle: Path, place: Path, *more: str) -> tuple[np.ndarray[Any, Any], Mapping[str, Any]]:
    scan = place / "data" / "images" / "ball_3.nii.gz"
    output = bundle.parent / f"labels{'_'.join(more)}"
    assert run("predict", str(bundle), str(scan), "-o", str(output), *EAGER, *more)[0] == 0
    return read_label(output / "ball_3.nii.gz").array, json.loads((output / "ball_3.json").read_text())


def test_one_fold_predicts_alone_and_three_are_averaged_and_named(trained: tuple[Path, dict[str, str]]) -> None:
    place, said = trained
    assert said["one"] == f"next: medseg predict {place / 'balls'} --input scans/ --output labels/"
    assert said["all"].startswith(f"next: medseg cv {place / 'balls'}, or medseg predict")
    assert said["all"].endswith("averages folds 0, 1 and 2; --fold N takes one")
    inference = json.loads((place / "balls" / "configs" / "inference.json").read_text())
    assert inference["models"] == [f"models/fold_{fold}/model.pt" for fold in range(3)]
    assert "models" not in json.loads((place / "one" / "configs" / "inference.json").read_text())
    _, record = segment(place / "balls", place)
    assert record["settings"]["networks"] == 3
    assert sorted(record["model"]["weights_sha256"]) == inference["models"]
    for fold in (0, 2):
        _, single = segment(place / "balls", place, "--fold", str(fold))
        assert single["settings"]["networks"] == 1
        assert list(single["model"]["weights_sha256"]) == [f"models/fold_{fold}/model.pt"]
    assert (
        main(["predict", str(place / "balls"), str(place / "data" / "images"), "--fold", "3", "-o", str(place / "x")])
        == 1
    )


@pytest.mark.slow
def test_the_single_file_holds_the_average_and_exports_give_predicts_labels(
    trained: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    place, _ = trained
    bundle = load_bundle(place / "balls")
    state = read_state_dict(bundle.layout.weights)
    assert {name.split(".")[1] for name in state} == {"0", "1", "2"}
    labels, _ = segment(place / "balls", place)
    layout = bundle.layout
    ckpt_export(
        net_id="network_def", filepath=str(tmp_path / "m.ts"), ckpt_file=str(layout.weights), meta_file=str(layout.metadata),
        config_file=[str(layout.inference)], bundle_root=str(layout.folder),
    )  # fmt: skip
    exported = export_bundle(layout.folder, "torchscript", output=tmp_path / "ours.ts")
    volume = read_image(place / "data" / "images" / "ball_3.nii.gz")
    prepared = bundle.preprocessing.apply(volume.array, volume.affine)
    inferer: Any = SlidingWindowInferer(bundle.roi_size, sw_batch_size=1, overlap=0.5, mode="gaussian")
    with torch.no_grad():
        for path in (tmp_path / "m.ts", exported.path):
            logits = inferer(torch.from_numpy(prepared.image)[None], torch.jit.load(str(path)))
            assert np.mean(logits.argmax(1)[0].numpy() == labels) >= 0.9999  # the balls lie on the network's grid
    assert [check for check in verify_bundle(layout.folder) if check.faults] == []


def evaluated(layout: Layout, fold: int, output: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Labels that MONAI's run of evaluate.json makes of a fold's validation cases."""
    flow = ConfigWorkflow(
        config_file=str(layout.evaluate), workflow_type="infer", logging_file=False, bundle_root=str(layout.folder),
        fold=fold, output_dir=str(output),
    )  # fmt: skip
    flow.initialize()
    evaluator = flow.parser.get_parsed_content("evaluator")
    evaluator.run()
    return {"state": {name: value.clone() for name, value in evaluator.network.state_dict().items()}}  # type: ignore[dict-item]


def test_evaluate_json_scores_each_fold_with_the_network_that_never_saw_it(
    trained: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    place, _ = trained
    layout = Layout(place / "balls")
    for fold in (0, 2):
        state = evaluated(layout, fold, tmp_path)["state"]
        expected = read_state_dict(layout.fold_weights(fold))
        assert all(torch.equal(state[name], value) for name, value in expected.items())
    copy = Layout(tmp_path / "copy")
    shutil.copytree(layout.folder, copy.folder)
    whole = json.loads(copy.evaluate.read_text())
    average = {"_target_": "medseg.components.averaged_network", "bundle_root": "@bundle_root", "device": "@device"}
    for change in (
        {"checkpoint": "$@bundle_root + '/models/model.pt'"},
        {"checkpoint": "$@bundle_root + '/models/fold_1/model.pt'"},
        {"network": average},
    ):
        copy.evaluate.write_text(json.dumps({**whole, **change}))
        (fault,) = CHECKS["folds do not leak"](_open(copy))
        assert "scores the validation cases of fold 0 with" in fault
    copy.evaluate.write_text(json.dumps({**whole, "network": {**average, "fold": "@fold"}, "handlers": []}))
    assert CHECKS["folds do not leak"](_open(copy)) == []
    held_out = evaluated(copy, 2, tmp_path)["state"]
    assert {name.split(".")[1] for name in held_out} == {"0"}


def test_weights_that_do_not_hold_the_listed_networks_are_found(
    trained: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    copy = Layout(tmp_path / "copy")
    shutil.copytree(trained[0] / "balls", copy.folder)
    inference = json.loads(copy.inference.read_text())
    copy.inference.write_text(json.dumps({**inference, "models": inference["models"][::-1]}))
    faults = CHECKS["weights belong to the network"](_open(copy))
    assert faults == [
        "models/model.pt does not hold the networks that inference.json lists in models; run `medseg fit --resume`"
    ]


def test_an_export_that_would_lose_post_processing_is_refused_by_name(
    trained: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    copy = Layout(tmp_path / "copy")
    shutil.copytree(trained[0] / "one", copy.folder)
    inference = json.loads(copy.inference.read_text())
    step = {"kind": "largest_component", "labels": [1]}
    inference["postprocessing"]["transforms"].insert(
        1, {"_target_": "medseg.components.PostprocessLabeld", "keys": "pred", "steps": [step]}
    )
    copy.inference.write_text(json.dumps(inference))
    with pytest.raises(BundleError, match=r"post-processing would be lost \(.*largest.* for \[1\]"):
        export_bundle(copy.folder, "onnx", output=tmp_path / "m.onnx")
    path = export_bundle(copy.folder, "torchscript", output=tmp_path / "m.ts").path
    files = {"inference.json": ""}
    torch.jit.load(str(path), _extra_files=files)
    assert "largest_component" in str(files["inference.json"])


class Killed(BaseException):
    """Stands for SIGKILL: nothing that runs afterwards may help."""


def test_killed_between_any_two_files_the_networks_are_the_old_or_the_new_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three finished folds, trained with another network than inference.json describes, one predicted before."""
    layout = make_bundle(tmp_path / "bundle")
    for fold in range(3):
        layout.fold_weights(fold).parent.mkdir(parents=True, exist_ok=True)
        torch.save({"weight": torch.full((2,), float(fold))}, layout.fold_weights(fold))
        layout.run_folder(fold).mkdir(parents=True)
        layout.run(fold).result.write_text("{}")
    old = json.loads(layout.inference.read_text())["network_def"]
    record = {"network_def": {**old, "mixer": "identity"}, "preprocessing_def": {}}
    layout.run(2).config.write_text(json.dumps(record))
    shutil.copyfile(layout.fold_weights(0), layout.weights)
    before = {path: path.read_bytes() for path in (layout.inference, layout.evaluate, layout.weights)}
    seen = []
    for steps in range(7):
        for path, content in before.items():
            path.write_bytes(content)
        layout.safetensors.write_bytes(b"of the old network")
        with monkeypatch.context() as patch, contextlib.suppress(Killed):
            left, replace = iter(range(steps)), os.replace

            def deadly(*paths: Any, left: Any = left, replace: Any = replace) -> None:
                if next(left, None) is None:
                    raise Killed
                replace(*paths)

            patch.setattr(os, "replace", deadly)
            average_finished(layout)
        find_bundle(layout.folder)
        inference, evaluate = (json.loads(path.read_text()) for path in (layout.inference, layout.evaluate))
        state = torch.load(layout.weights, weights_only=True)
        seen.append(len(members_of(inference["network_def"])))
        assert len(state) == seen[-1]
        assert len(inference.get("models", ["models/model.pt"])) == seen[-1]
        now = record["network_def"] if seen[-1] == 3 else old
        assert own_network(inference["network_def"]) == evaluate["network_def"] == now
        assert layout.safetensors.exists() == (seen[-1] == 1)
    assert seen[0] == 1
    assert seen[-1] == 3
    assert seen == sorted(seen)
    assert not layout.unfinished.exists()


def test_what_a_killed_choice_left_is_gone_after_the_next_one(
    trained: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    layout = Layout(Path(shutil.copytree(trained[0] / "balls", tmp_path / "balls")))
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = []
    for path in (layout.weights, layout.inference):
        name = temporary_beside(path).name.replace(f"-{os.getpid()}-", f"-{dead.pid}-")
        left.append(path.with_name(name))
        left[-1].write_bytes(b"half")
    use_networks(layout, json.loads(layout.inference.read_text())["models"], {})
    assert [path for path in left if path.exists()] == []
