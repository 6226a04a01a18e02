"""`medseg probe`: the command's table and JSON, and what is refused; what mixers reach is on docs/networks.md."""

from __future__ import annotations

import json

import pytest
import torch

from medseg.cli.main import EXIT_OK, main
from medseg.commands.probe import MIXERS, NEEDS_MORE, ProbeNetwork, probe
from medseg.errors import ConfigError


def test_the_command_prints_a_row_for_each_distance(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", "identity", "--distances", "3", "12", "--steps", "1"]) == EXIT_OK
    said = capsys.readouterr().out
    assert "identity at 3" in said
    assert said.count("-z") == 1
    assert main(["probe", "identity", "--distances", "3", "--steps", "1", "--json"]) == EXIT_OK
    (found,) = json.loads(capsys.readouterr().out)
    assert found["steps"] == 1
    assert set(found["along"]) == {"+x", "-x", "+y", "-y", "+z", "-z"}


def test_every_mixer_that_can_stand_alone_keeps_the_grid() -> None:
    for name in MIXERS:
        if name not in NEEDS_MORE:
            assert ProbeNetwork(name)(torch.randn(1, 1, 8, 8, 8)).shape == (1, 2, 8, 8, 8), name


def test_unknown_mixers_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"'hyena' is no mixer.*hyena_nd"):
        probe(["hyena"])
    with pytest.raises(ConfigError, match="carrier_attention needs tensors"):
        probe(["carrier_attention"])
