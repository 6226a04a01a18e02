"""`predict --part`: one watched process. A crash or a hang is one case's alone; a rerun does what is missing, and no more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medseg.cases.parts import Part, alone_with, reports_in
from medseg.commands.cohort import Spread
from medseg.commands.predict import predict_bundle
from medseg.errors import ConfigError, ResourceError, UntrustedBundleError
from tests.commands.cohort.folder_of_cases import faulty_bundle, write_scans
from tests.commands.cohort.network_of_faults import ENDS, HANGS


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return faulty_bundle(tmp_path_factory.mktemp("bundle") / "of_faults")


@pytest.mark.slow  # five starts of a process, and two waits for the limit
def test_a_crash_and_a_hang_are_listed_and_a_rerun_does_nothing_that_is_done(bundle: Path, tmp_path: Path) -> None:
    names = write_scans(tmp_path / "in", 6, {1: ENDS, 2: HANGS, 3: -1.0})
    spread = Spread(part=Part(1, 1), limit_s=20.0)
    result = predict_bundle(bundle, tmp_path / "in", tmp_path / "out", preview=False, trust=True, spread=spread)
    found = {case.name: case for case in result.cases}
    assert sorted(found) == names
    assert [found[name].status for name in names] == ["done", "failed", "failed", "failed", "done", "done"]
    assert "exit code 7 (tried 2 times)" in found[names[1]].error
    assert "took more than 20 s; --case-limit sets another limit (tried 2 times)" in found[names[2]].error
    assert names[3] in found[names[3]].error
    single = predict_bundle(
        bundle, tmp_path / "in" / f"{names[5]}.nii.gz", tmp_path / "single", preview=False, trust=True
    )
    assert single.cases[0].status == "done"
    written = [json.loads((tmp_path / folder / f"{names[5]}.json").read_text()) for folder in ("out", "single")]
    assert written[0]["label_sha256"] == written[1]["label_sha256"]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("case_*")}
    for number in (1, 2, 3):
        (tmp_path / "in" / f"{names[number]}.nii.gz").unlink()
    again = predict_bundle(bundle, tmp_path / "in", tmp_path / "out", preview=False, trust=True, spread=spread)
    assert {case.status for case in again.cases} == {"skipped"}
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("case_*")} == before
    assert len((tmp_path / "out" / "volumes.csv").read_text().splitlines()) == 1 + 3 * 2  # labels
    (report,) = reports_in(tmp_path / "out")
    assert report["ended"]
    assert report["skipped"] == 3


def test_parts_share_the_cases_out_and_one_outside_is_refused() -> None:
    cases = list(range(10))
    parts = [Part(index, 3).cases(cases) for index in (1, 2, 3)]  # type: ignore[arg-type]
    assert sorted(case for part in parts for case in part) == cases
    for text in ("0/3", "4/3", "1", "a/b", "-1/3"):
        with pytest.raises(ConfigError, match="--part"):
            Part.of(text)


def test_two_runs_into_one_folder_are_refused_but_not_two_parts(tmp_path: Path) -> None:
    with (
        alone_with(tmp_path, Part(1, 2)),
        alone_with(tmp_path, Part(2, 2)),
        pytest.raises(ResourceError, match=r"another run \(part [12] of 2\) writes there"),
        alone_with(tmp_path, Part()),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_a_strangers_bundle_gets_no_workers(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEDSEG_FOREIGN")
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    for path in bundle.rglob("*"):
        if path.is_file():
            target = stranger / path.relative_to(bundle)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    write_scans(tmp_path / "in", 1)
    with pytest.raises(UntrustedBundleError, match="workers have none"):
        predict_bundle(stranger, tmp_path / "in", tmp_path / "out", spread=Spread(part=Part(1, 1)))
