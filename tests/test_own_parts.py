"""Parts of an installed package: a real one, whose dist-info folder lies on sys.path, brings one part of each kind."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from medseg import own_parts
from medseg.datasets import DATASETS, open_dataset
from medseg.errors import ConfigError
from medseg.losses import LOSSES
from medseg.networks import MIXERS, build_network
from medseg.own_parts import Parts
from medseg.training.chosen_parts import choose_augmentation, make_loss
from tests.volumes import make_case

CODE = """
import pathlib
import torch
from medseg.datasets import folder
from medseg.networks.presets.scans import vim
from medseg.transforms.crops.recipes import Recipe

class Mean(torch.nn.Module):
    def __init__(self, site):
        super().__init__()
        self.project = torch.nn.Linear(site.width, site.width)

    def forward(self, x, context):
        return self.project(x.mean((1, 2, 3), keepdim=True)).expand(x.shape), context

class Squared(torch.nn.Module):
    def __init__(self, factor=1.0):
        super().__init__()
        self.factor = factor

    def forward(self, logits, target):
        return self.factor * logits.square().mean()

class Brighter:
    def __init__(self, by=1.0):
        self.by = by

    def __call__(self, sample):
        return {**sample, "image": sample["image"] + self.by}

GENTLE = Recipe(rotation=0.0, mirror=0.0)

class Layout:
    @staticmethod
    def matches(root):
        return (root / "mine.txt").is_file()

    @staticmethod
    def load(root):
        return folder.load(pathlib.Path(root) / "inside")
"""
ENTRY_POINTS = """
[medseg.mixers]
mean = tiny_parts:Mean
broken = tiny_parts:Nothing
[medseg.losses]
squared = tiny_parts:Squared
[medseg.augmentations]
brighter = tiny_parts:Brighter
gentle = tiny_parts:GENTLE
[medseg.datasets]
mine = tiny_parts:Layout
[medseg.presets]
my_vim = tiny_parts:vim
"""


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installed package `tiny_parts`."""
    facts = tmp_path / "site" / "tiny_parts-1.0.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-parts\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(ENTRY_POINTS)
    (tmp_path / "site" / "tiny_parts.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    own_parts._points.cache_clear()
    yield
    own_parts._points.cache_clear()
    sys.modules.pop("tiny_parts", None)


def test_a_mixer_and_a_preset_build_a_network() -> None:
    network = build_network("my_vim", mixer="mean", roi_size=(32, 32, 32))
    assert any(type(part).__name__ == "Mean" for part in network.modules())
    assert network(torch.zeros(1, 1, 32, 32, 32)).shape == (1, 2, 32, 32, 32)


def test_a_loss_is_made_with_its_settings() -> None:
    logits, target = torch.ones(1, 2, 4, 4), torch.zeros(1, 1, 4, 4, dtype=torch.long)
    assert make_loss({"name": "squared", "factor": 3.0})(logits, target) == 3
    with pytest.raises(ConfigError, match="faktor"):
        make_loss({"name": "squared", "faktor": 3.0})


def test_augmentation_is_a_transform_or_a_recipe() -> None:
    sample = {"image": torch.zeros(1, 4, 4), "label": torch.zeros(1, 4, 4, dtype=torch.int64)}
    image, _ = choose_augmentation({"preset": "brighter", "by": 2.0}).changed(sample, 0)
    assert image.eq(2).all()
    recipe = choose_augmentation({"preset": "gentle", "noise": 1.0}).recipe
    assert (recipe.rotation, recipe.mirror, recipe.noise) == (0.0, 0.0, 1.0)


def test_a_dataset_layout_is_known_by_itself_and_by_name(tmp_path: Path) -> None:
    make_case(tmp_path / "data" / "inside", "a")
    (tmp_path / "data" / "mine.txt").touch()
    assert [case.name for case in open_dataset(tmp_path / "data").cases] == ["a"]
    assert [case.name for case in open_dataset(tmp_path / "data", "mine").cases] == ["a"]


def test_names_are_listed_without_importing_the_package_and_built_in_ones_are_medsegs() -> None:
    parts = Parts("mixers", MIXERS)
    assert {"mean", "ssd"} <= set(parts)
    assert "mean" in parts
    assert parts["ssd"] is MIXERS["ssd"]
    assert "tiny_parts" not in sys.modules
    assert parts["mean"].__name__ == "Mean"
    assert len(Parts("losses", LOSSES)) == len(LOSSES) + 1
    assert len(Parts("datasets", DATASETS)) == len(DATASETS) + 1
    with pytest.raises(ConfigError, match="Did you mean mean"):
        build_network("my_vim", mixer="maen")


def test_a_package_that_cannot_be_imported_is_named() -> None:
    with pytest.raises(ConfigError, match=r"mixers 'broken' of tiny-parts \(tiny_parts:Nothing\): cannot be imported"):
        build_network("my_vim", mixer="broken", roi_size=(32, 32, 32))


def test_a_project_that_cannot_be_imported_is_told_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half_done").mkdir()
    (tmp_path / "half_done" / "__init__.py").write_text("x = 1\ny = z\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match=r"project half_done: cannot be imported: __init__.py line 2: NameError"):
        build_network("my_vim", mixer="mean", project="half_done")
    (tmp_path / "half_done" / "__init__.py").write_text("MIXERS = [1]\n")
    with pytest.raises(ConfigError, match="MIXERS is a list"):
        build_network("my_vim", mixer="mean", project="half_done")
