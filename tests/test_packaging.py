"""Wheel and source archive hold every module and data file, and what is installed from them imports and runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a source archive, so that both are known to be complete."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return next(out.glob("*.whl"))


def test_the_wheel_holds_every_module_and_kernel_source(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for base, top in ((ROOT, "medseg"), (ROOT / "kernels", "medseg_kernels")):
        for path in (base / top).rglob("*"):
            if (
                path.suffix in (".py", ".cpp", ".json", ".typed", ".js", ".css", ".gz", ".txt")
                and "__pycache__" not in path.parts
            ):
                assert path.relative_to(base).as_posix() in names, path
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"medseg", "medseg_kernels"}


def test_the_wheel_holds_every_shipped_configuration_and_bundle(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder, inside in (("configs", "medseg/_configs"), ("bundles", "medseg/_bundles")):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix in (".json", ".conf", ".pt", ".md"):
                assert f"{inside}/{path.relative_to(ROOT / folder).as_posix()}" in names, path


def test_an_installed_wheel_runs_away_from_the_source(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-compile",
        "--target",
        str(target),
        str(wheel),
    ]
    subprocess.run(install, check=True, capture_output=True)
    code = (
        "import json, medseg, medseg_kernels; from medseg.bundle.catalogue import packaged_folder;"
        "print(json.dumps([medseg.__file__, medseg_kernels.__file__, str(packaged_folder('configs'))]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(target)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    places = json.loads(done.stdout.splitlines()[-1])
    assert all(place.startswith(str(target)) for place in places), places
    assert Path(places[2]).is_dir()
    again = subprocess.run(
        [sys.executable, "-m", "medseg", "--version"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert again.stdout.startswith("medseg ")
