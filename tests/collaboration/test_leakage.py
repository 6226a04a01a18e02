"""The attack rebuilds what is there to rebuild, and a defence is applied before anything leaves."""

from __future__ import annotations

from pathlib import Path

import torch

from medseg.collaboration.cut import Defence, epsilon_of
from medseg.collaboration.leakage import Attack, attack_site, correlation, similarity
from medseg.commands.split import run_split
from medseg.commands.split_leakage import measure_leakage
from medseg.commands.split_plan import WantedSplit, plan_split
from medseg.config import read_json
from tests.collaboration.split_samples import make_patients, settings_of, sites_of


def test_an_undefended_fine_level_shows_more_than_the_coarsest_and_noise_shows_less(tmp_path: Path) -> None:
    data = make_patients(tmp_path, ("ct", "pet"), label="pet")
    settings = settings_of(("ct", "pet"), {"ct": [0, 1, 2, 3, 4], "pet": [0, 1, 2, 3, 4]})
    label, others = sites_of(settings, data, defence=Defence(clip=1.0, noise=4.0))
    party = others["ct"]
    party.geometry(label.references(["p0", "p1", "p2"]))
    rows = attack_site(party, ["p0", "p1"], ["p2"], Attack(steps=150, seeds=1, crops=12, repeats=2, levels=(0, 4)))
    open_levels, noisy = rows[:2], rows[2:]
    assert [row.level for row in rows] == [0, 4, 0, 4]
    assert all(row.sent for row in rows)
    assert open_levels[0].correlation > 0.6
    assert open_levels[0].correlation > open_levels[1].correlation + 0.2
    assert noisy[0].correlation < open_levels[0].correlation - 0.2
    assert "noise" in noisy[0].defence
    assert open_levels[0].original.shape == (8, 8)


def test_scores_are_one_for_the_image_itself_and_the_constant_image_has_no_correlation() -> None:
    image = torch.rand(2, 1, 12, 12, 12, generator=torch.Generator().manual_seed(0))
    assert abs(correlation(image, image) - 1) < 1e-5
    assert abs(similarity(image, image) - 1) < 1e-5
    assert correlation(torch.ones_like(image), image) == 0.0


def test_a_defence_clips_each_item_and_its_noise_has_the_stated_spread() -> None:
    generator = torch.Generator().manual_seed(0)
    cut = [torch.randn(3, 4, 8, 8, 8, generator=generator), torch.randn(3, 8, 4, 4, 4, generator=generator)]
    clipped = Defence(clip=2.0).apply(cut, generator)
    norms = torch.cat([x.flatten(1) for x in clipped], dim=1).norm(dim=1)
    assert torch.allclose(norms, torch.full((3,), 2.0))
    noisy = Defence(clip=2.0, noise=0.5).apply(cut, generator)
    spread = torch.cat([(a - b).flatten() for a, b in zip(noisy, clipped, strict=True)]).std()
    assert abs(float(spread) - 1.0) < 0.05
    dropped = Defence(dropout=0.25).apply([torch.ones(1, 1, 32, 32, 32)], generator)[0]
    assert abs(float((dropped == 0).float().mean()) - 0.25) < 0.02
    assert abs(float(dropped.mean()) - 1) < 0.02


def test_epsilon_grows_with_releases_and_shrinks_with_noise() -> None:
    assert epsilon_of(10.0, 1, 1e-5) < epsilon_of(10.0, 100, 1e-5) < epsilon_of(5.0, 100, 1e-5)
    assert abs(epsilon_of(2.0, 2, 1e-5) - (1 + 2 * (11.512925464970229) ** 0.5)) < 1e-9


def test_the_report_has_what_was_rebuilt_its_pictures_the_dice_and_what_may_be_called_private(tmp_path: Path) -> None:
    data = make_patients(tmp_path / "data", ("CT", "PET"), label="PET")
    defence = Defence(clip=10.0, noise=1.0)
    wanted = WantedSplit(preset="resenc_unet", folds=3, defence=defence)
    plan_split(data, {"ct": ["CT"], "pet": ["PET"]}, "pet", tmp_path / "whole", wanted)
    small = {"roi_size": [16, 16, 32], "batch_size": 1, "max_epochs": 1, "steps_per_epoch": 2}
    run_split(tmp_path / "whole", small, here=True)
    page = tmp_path / "report.html"
    attack = Attack(steps=2, seeds=2, crops=1, repeats=2, levels=(2,))
    leaks = measure_leakage(tmp_path / "whole", attack, page)
    text = page.read_text(encoding="utf-8")
    assert [leak.defence for leak in leaks] == ["nothing", defence.words()]
    assert len(leaks[0].by_seed) == 2
    assert text.count("data:image/png;base64") == 2
    assert "SSIM above the mean image" in text
    assert "(epsilon, delta)" in text
    assert "in 1 patients, too few for an interval" in text
    dice = read_json(page.with_suffix(".json"))["mean_dice"]
    assert dice["count"] == 1
    assert dice["low"] is None
