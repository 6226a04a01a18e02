"""`medseg cluster slurm` writes a list and a script that bash accepts; `medseg cluster status` reads the records."""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from medseg.cli.main import EXIT_OK, main
from medseg.io.header import Header
from medseg.io.volume import write_label

BUNDLE = "hippocampus_mr_mambavision"


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort of 'scans'")
    for case in range(3):
        array = np.random.default_rng(case).integers(0, 99, (9, 8, 7)).astype(np.uint8)
        write_label(folder / f"scan {case}.nii.gz", array, like=Header.of_array(array.shape, np.eye(4)))
    return folder


def test_the_script_takes_every_case_once_and_bash_reads_it(scans: Path, tmp_path: Path) -> None:
    output = tmp_path / "labels of it's own"
    words = ["cluster", "slurm", BUNDLE, "-i", str(scans), "-o", str(output), "--nodes", "8", "--gpus", "0"]
    assert main([*words, "--sbatch=--partition=long", "--word=--no-preview"]) == EXIT_OK
    text = (output / "predict.sbatch").read_text()
    assert "#SBATCH --array=1-3" in text  # no task without a case
    assert "#SBATCH --partition=long" in text
    assert "--gres" not in text
    assert subprocess.run(["bash", "-n", str(output / "predict.sbatch")], check=False).returncode == 0
    said = subprocess.run(
        ["bash", str(output / "predict.sbatch")], env={"MEDSEG": "printf %s\\n", "SLURM_ARRAY_TASK_ID": "2"},
        capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    assert said[said.index("--part") + 1] == "2/3"
    assert said[-1] == "--no-preview"
    with Path(said[said.index("--input") + 1]).open() as listed:
        assert [row["name"] for row in csv.DictReader(listed)] == ["scan 0", "scan 1", "scan 2"]
    assert said[said.index("--output") + 1] == str(output)


def test_before_it_runs_nothing_is_done_and_another_folder_is_refused(
    scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cluster", "status", str(tmp_path)]) != EXIT_OK
    assert "medseg cluster slurm" in capsys.readouterr().err
    assert (
        main(["cluster", "slurm", BUNDLE, "-i", str(scans), "-o", str(tmp_path), "--nodes", "2", "--quiet"]) == EXIT_OK
    )
    capsys.readouterr()
    main(["cluster", "status", str(tmp_path), "--json"])
    facts = json.loads(capsys.readouterr().out)
    assert (facts["cases"], facts["done"], facts["failed"]) == (3, 0, {})
    assert main(["cluster", "slurm", BUNDLE, "-i", str(scans), "-o", str(tmp_path), "--nodes", "0"]) != EXIT_OK
