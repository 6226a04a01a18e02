"""`predict --workers ray` on two real actors: 200 cases of which four cannot be done, one actor killed from outside."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

pytest.importorskip("ray", reason="the package ray is not installed")

from medseg.cases.outputs import SUMMARY_NAME
from medseg.cli.main import main
from medseg.commands.cohort import Spread
from medseg.commands.cohort_ray import leave
from medseg.commands.predict import predict_bundle
from medseg.errors import ConfigError, ResourceError
from tests.commands.cohort.folder_of_cases import faulty_bundle, write_scans
from tests.commands.cohort.network_of_faults import ENDS, HANGS, RAISES

FAULTS = {17: RAISES, 60: ENDS, 111: HANGS, 150: -1.0}


@pytest.fixture(autouse=True)
def _leave() -> Iterator[None]:
    yield
    leave()


def kill_one_actor(*, after: Path, number: int) -> threading.Thread:
    """End one of the processes of the actors by SIGKILL, once `after` holds so many records."""

    def strike() -> None:
        while len(list(after.glob("case_*.json"))) < number:
            time.sleep(0.2)
        mine = psutil.Process().children(recursive=True)
        actors = [one for one in mine if "CaseWorker" in " ".join(one.cmdline())]
        assert actors, [one.cmdline() for one in mine]
        random.choice(actors).kill()

    thread = threading.Thread(target=strike, daemon=True)
    thread.start()
    return thread


def test_200_cases_with_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    bundle = faulty_bundle(tmp_path / "of_faults")
    names = write_scans(tmp_path / "in", 200, FAULTS)
    bad = [names[number] for number in FAULTS]
    thread = kill_one_actor(after=tmp_path / "out", number=80)
    words = ["predict", str(bundle), "-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--workers", "ray"]
    words += ["--trust", "--no-preview", "--threads", "1", "--case-limit", "30s"]
    assert main(words) == 1  # trust wants a hash where nobody can be asked; the message has it
    monkeypatch.setenv("MEDSEG_TRUST_SHA256", capsys.readouterr().err.split("MEDSEG_TRUST_SHA256=")[1].strip())
    assert main(words) == 3
    thread.join(1)
    assert not thread.is_alive()
    summary = json.loads((tmp_path / "out" / SUMMARY_NAME).read_text())
    assert (summary["done"], summary["failed"]) == (196, 4)
    failed = {case["name"]: case["error"] for case in summary["cases"] if case["status"] == "failed"}
    assert sorted(failed) == sorted(bad)
    for name, said in zip(
        bad, ("this case raises", "worker died", "took more than 30 s", f"{bad[3]}.nii.gz"), strict=True
    ):
        assert said in failed[name]
    assert sorted(case["name"] for case in summary["cases"]) == names
    assert sorted(path.name for path in (tmp_path / "out").glob("case_*.nii.gz")) == [
        f"{name}.nii.gz" for name in names if name not in bad
    ]
    assert not list((tmp_path / "out").glob(".medseg-tmp*"))
    leave()

    good = tmp_path / "good"
    good.mkdir()
    for name in names:
        if name not in bad:
            (tmp_path / "in" / f"{name}.nii.gz").rename(good / f"{name}.nii.gz")
    predict_bundle(bundle, good, tmp_path / "single", preview=False, trust=True)
    for name in names:
        if name not in bad:
            shared, single = ((tmp_path / folder / f"{name}.json").read_text() for folder in ("out", "single"))
            assert json.loads(shared)["label_sha256"] == json.loads(single)["label_sha256"]
            assert (tmp_path / "out" / f"{name}.nii.gz").read_bytes() == (
                tmp_path / "single" / f"{name}.nii.gz"
            ).read_bytes()

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("case_*")}
    words[3] = str(good)
    began = time.monotonic()
    assert main(words) == 0
    assert time.monotonic() - began < 60
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("case_*")} == before
    assert json.loads((tmp_path / "out" / SUMMARY_NAME).read_text())["skipped"] == 196


def test_an_address_that_answers_no_ray_is_told_so(tmp_path: Path) -> None:
    bundle = faulty_bundle(tmp_path / "of_faults")
    write_scans(tmp_path / "in", 1)
    out = tmp_path / "out"
    with pytest.raises(ResourceError, match="no Ray answers there"):
        predict_bundle(bundle, tmp_path / "in", out, trust=True, spread=Spread("ray=127.0.0.1:9"))
    with pytest.raises(ConfigError, match="expected HOST:PORT"):
        predict_bundle(bundle, tmp_path / "in", out, trust=True, spread=Spread("ray=nowhere"))
    with pytest.raises(ConfigError, match="expected ray, or ray=ADDRESS"):
        predict_bundle(bundle, tmp_path / "in", out, trust=True, spread=Spread("dask"))
