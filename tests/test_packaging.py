"""Wheels and source archives hold every module and data file, and what is installed from the two wheels imports and runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
import venv
import zipfile
from email import message_from_string
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
DATA = (".py", ".cpp", ".hpp", ".json", ".typed", ".js", ".css", ".gz", ".txt")


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both wheels, built from source archives, so that these are known to be complete too."""
    out = tmp_path_factory.mktemp("dist")
    for folder in (ROOT / "kernels", ROOT):
        command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return {path.name.split("-")[0]: path for path in out.glob("*.whl")}


def beside_torch(folder: Path) -> Path:
    """Python of a new environment that sees every package that runs here, except ours."""
    venv.create(folder, with_pip=False, symlinks=True)
    shared = folder / "shared"
    shared.mkdir()
    for path in Path(torch.__file__).parents[1].iterdir():
        if "medseg" not in path.name and path.suffix != ".pth":
            (shared / path.name).symlink_to(path)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "shared.pth").write_text(f"{shared}\n")
    return folder / "bin" / "python"


def install(python: Path, dist: Path, *names: str) -> None:
    command = [
        str(python),
        "-m",
        "pip",
        "install",
        "-q",
        "--no-compile",
        "--no-index",
        "--find-links",
        str(dist),
        *names,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def run(python: Path, code: str, folder: Path, **environment: str) -> str:
    done = subprocess.run(
        [str(python), "-c", code], cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheels_hold_every_module_and_kernel_source(wheels: dict[str, Path]) -> None:
    assert set(wheels) == {"medseg", "medseg_kernels"}
    for base, top in ((ROOT, "medseg"), (ROOT / "kernels", "medseg_kernels")):
        names = set(zipfile.ZipFile(wheels[top]).namelist())
        for path in (base / top).rglob("*"):
            if path.suffix in DATA and "__pycache__" not in path.parts:
                assert path.relative_to(base).as_posix() in names, path
        assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {top}


def test_the_wheel_holds_every_shipped_configuration_and_bundle(wheels: dict[str, Path]) -> None:
    names = set(zipfile.ZipFile(wheels["medseg"]).namelist())
    for folder, inside in (("configs", "medseg/_configs"), ("bundles", "medseg/_bundles")):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix in (".json", ".conf", ".pt", ".md"):
                assert f"{inside}/{path.relative_to(ROOT / folder).as_posix()}" in names, path


def test_the_kernels_ask_for_torch_and_for_no_version_of_it(wheels: dict[str, Path]) -> None:
    archive = zipfile.ZipFile(wheels["medseg_kernels"])
    (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    assert message_from_string(archive.read(name).decode()).get_all("Requires-Dist") == ["torch", "numpy"]
    assert wheels["medseg_kernels"].name.endswith("-py3-none-any.whl")


def test_the_kernels_install_alone_beside_torch_and_run_without_a_compiler(
    wheels: dict[str, Path], tmp_path: Path
) -> None:
    python = beside_torch(tmp_path)
    install(python, wheels["medseg"].parent, "medseg-kernels")
    code = (
        "import importlib.util, medseg_kernels, torch; assert importlib.util.find_spec('medseg') is None;"
        "x = torch.ones(1, 2, 3); A = -torch.ones(2, 4); B = torch.ones(1, 4, 3);"
        "print(medseg_kernels.__file__); print(medseg_kernels.selective_scan_fn(x, x, A, B, B)[0, 0, 0].item())"
    )
    place, value = run(python, code, tmp_path, PATH="", CXX="", MEDSEG_CACHE=str(tmp_path)).splitlines()
    assert place.startswith(str(tmp_path))
    assert float(value) == 4.0


@pytest.mark.slow
def test_both_wheels_install_from_a_folder_and_run_away_from_the_source(
    wheels: dict[str, Path], tmp_path: Path
) -> None:
    python = beside_torch(tmp_path)
    install(python, wheels["medseg"].parent, "medseg-kernels", "medseg")
    code = (
        "import json, medseg, medseg_kernels; from medseg.bundle.catalogue import packaged_folder;"
        "from medseg.cli.main import main; main(['--version']);"
        "print(json.dumps([medseg.__file__, medseg_kernels.__file__, str(packaged_folder('configs'))]))"
    )
    version, places = run(python, code, tmp_path).splitlines()
    assert version.startswith("medseg ")
    assert all(place.startswith(str(tmp_path)) for place in json.loads(places)), places
    assert Path(json.loads(places)[2]).is_dir()


def test_every_documented_installation_names_both_folders() -> None:
    pages = ["Makefile", "README.md", "docker/Dockerfile", "docs/clinic_offline.md", "docs/bundles-elsewhere.md"]
    own = (".[", " .", "-e .", '".[', "'.[")
    for page in pages:
        for line in (ROOT / page).read_text(encoding="utf-8").splitlines():
            if "pip" in line and any(f"{word} {mark}" in line for word in ("install", "wheel", "-e") for mark in own):
                assert "kernels" in line, f"{page}: {line.strip()}"


def test_the_two_distributions_have_one_licence_and_one_version() -> None:
    ours, kernels = (
        tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"] for folder in ("", "kernels")
    )
    assert ours["version"] == kernels["version"]
    assert (ROOT / "LICENSE").read_bytes() == (ROOT / "kernels" / "LICENSE").read_bytes()
