"""A packed bundle travels: checksums, safetensors, no names of people's files; installed, its name works everywhere."""

from __future__ import annotations

import json
import sys
import types
import zipfile
from pathlib import Path

import pytest
import torch

from medseg.bundle.catalogue import find_bundle, find_bundle_root, known_bundles
from medseg.bundle.checks.verify import verify_bundle
from medseg.bundle.load import load_bundle
from medseg.commands.install import install_bundle
from medseg.commands.pack import pack_bundle, scrub
from medseg.errors import BundleError
from medseg.layout import Layout


def test_packed_bundle_installs_and_predicts_by_name(bundle: Layout, tmp_path: Path) -> None:
    packed = pack_bundle(bundle.folder, tmp_path / "bundle.zip")
    folder = install_bundle(str(packed.path), sha256=packed.sha256)
    assert known_bundles()["tiny_mr_unet"] == folder == find_bundle("tiny_mr_unet")
    assert [check for check in verify_bundle("tiny_mr_unet") if check.faults] == []
    ours, theirs = load_bundle(bundle.folder), load_bundle("tiny_mr_unet")
    assert theirs.weight_files == [folder / "models" / "model.safetensors"]
    image = torch.rand(1, 1, 32, 32, 32)
    with torch.no_grad():
        assert torch.equal(ours.network()(image), theirs.network()(image))
    with pytest.raises(BundleError, match="installed already"):
        install_bundle(str(packed.path))
    assert install_bundle(str(packed.path), replace=True) == folder


def test_packing_twice_gives_the_same_zip(bundle: Layout, tmp_path: Path) -> None:
    first = pack_bundle(bundle.folder, tmp_path / "first.zip")
    assert pack_bundle(bundle.folder, tmp_path / "second.zip").sha256 == first.sha256


def test_zip_can_be_used_as_it_is(bundle: Layout, tmp_path: Path) -> None:
    packed = pack_bundle(bundle.folder, tmp_path / "bundle.zip")
    assert load_bundle(packed.path).name == "tiny_mr_unet"
    assert find_bundle(packed.path) == find_bundle(packed.path)
    assert "tiny_mr_unet" not in known_bundles()


def test_names_and_folders_of_the_data_stay_here(bundle_and_data: tuple[Layout, Path], tmp_path: Path) -> None:
    layout, data = bundle_and_data
    packed = pack_bundle(layout.folder, tmp_path / "bundle.zip")
    with zipfile.ZipFile(packed.path) as archive:
        texts = {name: archive.read(name).decode(errors="replace") for name in archive.namelist()}
        splits = json.loads(archive.read("tiny_mr_unet/configs/splits.json"))
    assert not [name for name, text in texts.items() if str(data) in text or "case0" in text]
    assert splits == [{"train": ["case_0002", "case_0003"], "val": ["case_0001"]}]
    kept = pack_bundle(layout.folder, tmp_path / "kept.zip", keep_names=True)
    with zipfile.ZipFile(kept.path) as archive:
        assert "case0" in archive.read("tiny_mr_unet/configs/splits.json").decode()
        assert str(data) not in archive.read("tiny_mr_unet/plan.json").decode()


def test_results_are_not_packed(bundle: Layout, tmp_path: Path) -> None:
    for name in ("runs/fold_0/last.ckpt", "eval/case0_seg.nii.gz", ".hidden/x"):
        path = bundle.folder / name
        path.parent.mkdir(parents=True)
        path.write_text("x")
    packed = pack_bundle(bundle.folder, tmp_path / "bundle.zip")
    with zipfile.ZipFile(packed.path) as archive:
        assert not [name for name in archive.namelist() if "runs" in name or "eval/" in name or "hidden" in name]


def test_link_in_a_bundle_is_not_packed(bundle: Layout, tmp_path: Path) -> None:
    (bundle.folder / "docs" / "passwd").symlink_to("/etc/passwd")
    with pytest.raises(BundleError, match="is a link"):
        pack_bundle(bundle.folder, tmp_path / "bundle.zip")
    assert not (tmp_path / "bundle.zip").exists()


def test_wrong_hash_is_refused(bundle: Layout, tmp_path: Path) -> None:
    packed = pack_bundle(bundle.folder, tmp_path / "bundle.zip")
    with pytest.raises(BundleError, match="expected 0000"):
        install_bundle(str(packed.path), sha256="0" * 64)


def test_install_from_an_address(bundle: Layout, tmp_path: Path) -> None:
    packed = pack_bundle(bundle.folder, tmp_path / "served" / "bundle.zip")
    import functools
    import http.server
    import threading

    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(packed.path.parent))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        assert install_bundle(f"{address}/bundle.zip").name == "tiny_mr_unet"
        with pytest.raises(BundleError, match="cannot be downloaded"):
            install_bundle(f"{address}/nothing.zip")
    finally:
        server.shutdown()
        server.server_close()


def test_install_from_hugging_face(bundle: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    def snapshot_download(repository: str, *, local_dir: str, **_: object) -> str:
        assert repository == "somebody/tiny"
        return str(shutil.copytree(bundle.folder, local_dir))

    fake = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    assert install_bundle("hf:somebody/tiny").name == "tiny_mr_unet"
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(BundleError, match="pip install huggingface_hub"):
        install_bundle("hf:somebody/other")


def test_scrubbing_replaces_whole_words_only() -> None:
    table = {"case1": "case_0001", "/data/a": "data", "7": "case_0002"}
    before = {"case1": ["case1", "case10", "see case1.", "0.7", "7", 7], "x": "/data/a/case1.nii"}
    after = {"case_0001": ["case_0001", "case10", "see case_0001.", "0.7", "case_0002", 7], "x": "data/case_0001.nii"}
    assert scrub(before, table) == after


def test_root_is_found_by_name(bundle: Layout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["python", "run", "--config_file", str(bundle.inference)])
    assert find_bundle_root("tiny_mr_unet") == str(bundle.folder.resolve())
    monkeypatch.setattr(sys, "argv", ["python", "run", f"--config_file=['{bundle.train}','{bundle.inference}']"])
    assert find_bundle_root("tiny_mr_unet") == str(bundle.folder.resolve())
    assert find_bundle_root("another") == "."
    monkeypatch.setattr(sys, "argv", ["python"])
    monkeypatch.chdir(bundle.folder)
    assert find_bundle_root("tiny_mr_unet") == str(bundle.folder.resolve())
    monkeypatch.chdir(tmp_path)
    assert find_bundle_root("tiny_mr_unet") == "."


def test_unknown_name_lists_the_known(bundle: Layout) -> None:
    install_bundle(str(bundle.folder))
    with pytest.raises(BundleError, match="Did you mean tiny_mr_unet"):
        find_bundle("tiny_mr_unett")
