"""The bill of materials: complete over what medseg needs here, and shaped as CycloneDX asks."""

from __future__ import annotations

import importlib.metadata
import json
import re
from pathlib import Path

import pytest

from medseg.cli.sbom import main
from medseg.evaluation.report.viewer.niivue import ENGINE, ENGINE_SHA256
from medseg.tracking.sbom import installed, make_sbom, normalised


@pytest.fixture(scope="module")
def bill() -> dict:
    return make_sbom()


def test_every_required_package_that_is_installed_is_listed(bill: dict) -> None:
    listed = {normalised(entry["name"]): entry["version"] for entry in bill["components"]}
    for name in ("torch", "monai", "numpy", "nibabel", "pytorch-lightning", "mlflow", "simpleitk", "safetensors"):
        assert listed[name] == importlib.metadata.version(name)
    assert set(listed) - {"@niivue/niivue"} <= set(installed())
    (viewer,) = (entry for entry in bill["components"] if entry["name"] == "@niivue/niivue")
    assert viewer["hashes"][0]["content"] == ENGINE_SHA256
    assert viewer["version"] in ENGINE


def test_it_is_shaped_as_cyclonedx_asks(bill: dict) -> None:
    assert (bill["bomFormat"], bill["specVersion"], bill["version"]) == ("CycloneDX", "1.5", 1)
    assert re.fullmatch(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", bill["serialNumber"])
    references = [entry["bom-ref"] for entry in bill["components"]]
    assert len(references) == len(set(references))
    for entry in bill["components"]:
        assert entry["type"] == "library"
        assert re.fullmatch(r"pkg:(pypi/[a-z0-9-]+|npm/%40niivue/niivue)@[^+/ ]+", entry["purl"])
        assert all(re.fullmatch("[0-9a-f]{64}", one["content"]) for one in entry.get("hashes", []))
    known = {*references, bill["metadata"]["component"]["bom-ref"]}
    for entry in bill["dependencies"]:
        assert {entry["ref"], *entry["dependsOn"]} <= known
    torch = next(entry for entry in bill["dependencies"] if "/torch@" in entry["ref"])
    assert any("/sympy@" in needed for needed in torch["dependsOn"])


def test_the_library_of_the_standard_takes_it(bill: dict) -> None:
    pytest.importorskip("cyclonedx")
    from cyclonedx.model.bom import Bom
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    check = JsonStrictValidator(SchemaVersion.V1_5).validate_str
    assert check(json.dumps(bill)) is None
    assert check(json.dumps(bill | {"components": [{"name": "no type"}]})) is not None
    read = Bom.from_json(data=bill)
    assert read.validate()
    assert {component.purl.to_string() for component in read.components if component.purl} == {
        entry["purl"] for entry in bill["components"]
    }


def test_all_lists_more_and_the_command_writes_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], bill: dict
) -> None:
    assert main(["--all", "--output", str(tmp_path / "sbom.json")]) == 0
    everything = json.loads((tmp_path / "sbom.json").read_text())
    assert len(everything["components"]) >= len(bill["components"])
    assert "packages in" in capsys.readouterr().out
    assert main(["--output", str(tmp_path / "sbom.json" / "below")]) == 1
