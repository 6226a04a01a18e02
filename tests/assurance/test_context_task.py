"""The task measures context and nothing else: no statistic, no place and no norm tells the kind."""

from __future__ import annotations

import pytest
import torch

from medseg.assurance.context_task import HEIGHT, SIDE, Task, at_targets, draw
from medseg.errors import ConfigError


def test_no_statistic_and_no_place_tells_the_kind() -> None:
    random = torch.Generator().manual_seed(0)
    volumes, places, kinds = draw(Task(6), 800, random)
    assert int(kinds.sum()) == 400
    flat = volumes.flatten(1)
    numbers = torch.stack([flat.mean(1), flat.std(1), flat.amax(1), flat.amin(1), flat.pow(3).mean(1)], 1)
    facts = torch.cat([numbers, places.float()], 1)
    facts = (facts - facts.mean(0)) / facts.std(0)
    for column in range(facts.shape[1]):
        one, other = facts[kinds == 0, column], facts[kinds == 1, column]
        assert abs(float(one.mean() - other.mean())) < 0.25
        assert 0.75 < float(one.std() / other.std()) < 1.33


def test_the_marker_lies_where_it_should_and_its_pattern_is_the_kind() -> None:
    random = torch.Generator().manual_seed(1)
    for axis in range(3):
        for direction in (1, -1):
            volumes, places, kinds = draw(Task(5, 12, 7, (axis,), (direction,)), 20, random)
            for volume, place, kind in zip(volumes, places, kinds, strict=True):
                marker = place.clone()
                marker[axis] -= direction * 5
                cube = volume[0][tuple(slice(int(at), int(at) + SIDE) for at in marker)]
                assert float(cube.sum()) == 0
                along = 1 + int(kind)
                assert bool((cube.abs() == HEIGHT).all())
                assert float(cube.sum(along).abs().max()) == 0
            targets = at_targets(volumes, places)
            torch.testing.assert_close(targets, torch.full_like(targets, HEIGHT))


def test_a_distance_without_room_is_refused() -> None:
    for distance in (2, 15):
        with pytest.raises(ConfigError, match=f"distance {distance} on a grid 16"):
            Task(distance)
