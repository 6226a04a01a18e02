"""No packed, registered or exported file holds a name of a case or a place of this machine, however it is written."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from medseg.bundle.leak_scan import Scan
from medseg.bundle.load import Bundle
from medseg.bundle.secrets import Secrets, scrub
from medseg.commands import export
from medseg.commands.pack import clean_files, pack_bundle, write_clean_copy
from medseg.errors import BundleError
from medseg.layout import Layout

NAME, FOLDER = "MUSTERMANN_Erika", "/ward/study_7"
SECRETS = Secrets(
    {FOLDER: "data", "/home/somebody": None},
    {NAME: "case_0001", "Müller": "case_0002", "12": "case_0003", "007": "case_0004", "ab": "case_0005"},
)


def zipped(name: str, content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(name, content)
    return stream.getvalue()


def escaped(text: str) -> bytes:
    return "".join(f"\\u{ord(letter):04x}" for letter in text).encode()


LEAKS = {
    "plain": NAME.encode(),
    "within a word": f"x_{NAME}_seg.nii.gz".encode(),
    "other case": NAME.upper().encode(),
    "JSON escapes": json.dumps({"a": "Müller"}).encode(),
    "all escaped": escaped(NAME),
    "JSON in JSON": json.dumps(json.dumps({"a": "Müller"})).encode(),
    "slashes": FOLDER.replace("/", "\\/").encode(),
    "address": f"file://{FOLDER}/a%20b".encode(),
    "percent": b"M%C3%BCller",
    "HTML": b"M&uuml;ller",
    "decomposed": "Mu\u0308ller".encode(),
    "Latin-1": "seen: Müller".encode("latin-1") + b"\xff",
    "UTF-16": NAME.encode("utf-16"),
    "UTF-16 little": b"\x01" + NAME.encode("utf-16-le"),
    "UTF-16 big": b"\0\0" + FOLDER.encode("utf-16-be"),
    "UTF-16 umlaut": b"\0\0" + "Müller".encode("utf-16-le"),
    "home": b"/home/somebody/x.pt",
    "member": zipped("a/data.pkl", pickle.dumps({"who": NAME})),
    "member's name": zipped(f"{NAME}/x", b"1"),
    "member of a member": zipped("inner.ts", zipped("x.json", FOLDER.encode())),
    "after a length that is a letter": b"\0A" + FOLDER.encode() + b"\0",
    "between letters": b"\0\x03x" + NAME.encode() + b"q\x01",
    "key of a pickle": pickle.dumps({f"seen_{NAME}": 1}, protocol=2),
    "safetensors": (80).to_bytes(8, "little")
    + json.dumps({"__metadata__": {"who": "ab", "from": FOLDER}}).encode().ljust(80),
    "gzip": gzip.compress(NAME.encode()),
    "short name of a file": b"seen on 12.nii.gz",
    "number of a file": b"see 007_0000.nii.gz",
    "in weights": np.random.default_rng(0).bytes(5000) + b"\0" + NAME.encode() + b"\0" + bytes(9000),
}


@pytest.mark.parametrize("how", LEAKS)
def test_every_spelling_is_found(how: str) -> None:
    assert Scan(SECRETS).find("model.bin", LEAKS[how])


def test_short_names_in_lists_are_found_and_nothing_else() -> None:
    scan = Scan(SECRETS)
    assert "the case name '12'" in (scan.find("splits.json", b'{"train": ["12", "ab"]}') or "")
    quiet = ['{"spacing": [12, 0.12], "version": "0.12.007"}', '{"channel_def": {"12": "ab"}}', "absent 12 mm 1.007"]
    for text in [*quiet, "/home/somebodyelse", "docs/home/somebody", "/ward/study_77", "MUSTERMANN", "Müllerin"]:
        assert scan.find("metadata.json", text.encode()) is None, text
    assert scan.find("weights.pt", np.random.default_rng(1).bytes(1 << 20)) is None


def test_words_of_every_bundle_are_nobodys_name(tmp_path: Path) -> None:
    table = {"train": "case_0001", "image": "case_0002", "3": "case_0003"}
    config = {"train": {"image": "@image", "n": "see train"}, "channel_def": {"3": "x"}}
    assert scrub(config, table) == config
    assert scrub([{"train": ["train", "3"], "val": ["image"]}], table) == [
        {"train": ["case_0001", "case_0003"], "val": ["case_0002"]}
    ]


def test_reports_and_pictures_stay_here(bundle: Layout, tmp_path: Path) -> None:
    for name in (
        "docs/cross_validation.html", "docs/worst.png", "docs/scores.csv", "docs/LICENSE.html", "notes.json", "models/notes.txt",
        "configs/cases.csv", "imagesTr/a.nii.gz", "evaluation/report.html", "docs/more/x.md", "models/a.ckpt", "x.ipynb",
    ):  # fmt: skip
        path = bundle.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"case0 and a picture")
    packed = pack_bundle(bundle.folder, tmp_path / "bundle.zip")
    with zipfile.ZipFile(packed.path) as archive:
        kept = {name.partition("/")[2] for name in archive.namelist()}
    assert kept == {
        "LICENSE", "SHA256SUMS", "configs/evaluate.json", "configs/inference.json", "configs/logging.conf",
        "configs/metadata.json", "configs/multi_gpu_train.json", "configs/splits.json", "configs/train.json",
        "docs/README.md", "models/model.pt", "models/model.safetensors", "plan.json",
    }  # fmt: skip


def test_the_card_speaks_of_numbers(bundle: Layout, tmp_path: Path) -> None:
    bundle.readme.write_text("worst: case0 and case1_seg\n")
    assert clean_files(bundle.folder)["docs/README.md"] == b"worst: case_0001 and case_0002_seg\n"
    assert clean_files(bundle.folder, keep_names=True)["docs/README.md"].startswith(b"worst: case0")


@pytest.mark.parametrize(
    ("file", "text"),
    [("configs/extra.yaml", "who: case0"), ("scripts/x.py", "# {bundle}/models"), ("docs/a.md", "see {home}/x")],
)
def test_a_file_that_still_says_it_is_refused_by_name(bundle: Layout, tmp_path: Path, file: str, text: str) -> None:
    path = bundle.folder / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(text.format(bundle=bundle.folder.absolute(), home=Path.home()))
    for act in (pack_bundle, write_clean_copy):
        with pytest.raises(BundleError, match=rf"{file} holds .*must not leave this machine"):
            act(bundle.folder, tmp_path / "x")
        assert not (tmp_path / "x").exists()


def test_other_places_in_a_configuration_stay_here_too(bundle: Layout) -> None:
    config = json.loads(bundle.train.read_text())
    config |= {
        "pretrained": "/mnt/ward_7/first.pt",
        "other": ["~/study/x.nii.gz", "C:\\\\ward\\\\7"],
        "shape": "/images",
    }
    config["glob"] = "$sorted(glob('/images/*.nii.gz'))"
    bundle.train.write_text(json.dumps(config))
    bundle.readme.write_text("begun with /mnt/ward_7/first.pt\n")
    packed = clean_files(bundle.folder)
    train = json.loads(packed["configs/train.json"])
    assert {key: train[key] for key in ("pretrained", "other", "shape", "glob")} == {
        "pretrained": "first.pt", "other": ["x.nii.gz", "7"], "shape": "/images", "glob": config["glob"],
    }  # fmt: skip
    assert packed["docs/README.md"] == b"begun with first.pt\n"


def test_weights_that_hold_a_name_are_refused(bundle: Layout, tmp_path: Path) -> None:
    state = torch.load(bundle.weights, weights_only=True)
    torch.save({**state, "seen_case0": torch.zeros(1)}, bundle.weights)
    with pytest.raises(BundleError, match=r"models/model.pt .*the case name 'case0'"):
        pack_bundle(bundle.folder, tmp_path / "x.zip")


def test_an_exported_file_that_holds_a_place_is_not_kept(
    bundle: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def telling(network: torch.nn.Module, example: torch.Tensor, path: Path, opened: Bundle) -> torch.nn.Module:
        path.write_bytes(pickle.dumps(str(opened.layout.folder.absolute()), protocol=2))
        return network

    monkeypatch.setitem(export.WRITERS, "torchscript", telling)
    with pytest.raises(BundleError, match=r"model.ts holds the folder .*; it was not kept"):
        export.export_bundle(bundle.folder, "torchscript", output=tmp_path / "out" / "model.ts")
    assert list((tmp_path / "out").iterdir()) == []
