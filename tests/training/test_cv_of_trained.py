"""Two presets, two folds each, trained for a moment: compared, chosen and written into the bundle by the verb."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medseg.bundle.checks.verify import verify_bundle
from medseg.cli.main import main
from medseg.commands.fit import fit_bundle
from medseg.commands.plan import plan_bundle
from tests.volumes import make_case

QUICK = {"max_epochs": 1, "steps_per_epoch": 12, "val_interval": 1, "batch_size": 2, "num_workers": 0}


@pytest.mark.slow
def test_trained_folds_are_compared_and_the_better_way_is_written_down(tmp_path: Path) -> None:
    for index in range(4):
        make_case(tmp_path / "data", f"case_{index}", radius=4.0 + 0.4 * index, seed=index)
    bundles = []
    for preset in ("resenc_unet", "mambavision"):
        bundles.append(tmp_path / f"balls_{preset}")
        plan_bundle(tmp_path / "data", bundles[-1], preset=preset, folds=2)
        assert sorted(fit_bundle(bundles[-1], fold="all", overrides=QUICK)) == [0, 1]
    assert main(["cv", *map(str, bundles), "--quiet"]) == 0
    (written,) = [bundle for bundle in bundles if (bundle / "docs" / "cross_validation.json").is_file()]
    found = json.loads((written / "docs" / "cross_validation.json").read_text())
    assert len(found["candidates"]) == 3  # each preset, and both together
    assert all(candidate["cases"] == 4 for candidate in found["candidates"].values())
    best = max(found["candidates"].values(), key=lambda candidate: candidate["dice"]["label_1"]["mean"])
    assert found["candidates"][found["chosen"]]["dice"]["label_1"]["mean"] >= best["dice"]["label_1"]["mean"] - 0.02
    models = json.loads((written / "configs" / "inference.json").read_text())["models"]
    assert len(models) == 2 * len(found["candidates"][found["chosen"]]["bundles"])
    assert (written / "docs" / "cross_validation.html").stat().st_size > 10_000
    assert found["practice"]
    assert [fault for check in verify_bundle(written) for fault in check.faults] == []
    scan = str(tmp_path / "data" / "images" / "case_0.nii.gz")
    assert main(["predict", str(written), scan, "-o", str(tmp_path / "labels"), "--quiet"]) == 0
