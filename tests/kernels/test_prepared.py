"""Prepared calls: what is played is what triton's own launch passes; a launcher that refuses it gets ordinary launches."""

from __future__ import annotations

import warnings
from typing import Any
from unittest import mock

import pytest
import torch

import medseg_kernels as kernels
from medseg_kernels import prepared
from tests.kernels.model import compiled, host

pytestmark = pytest.mark.skipif(
    compiled.why_not() is not None, reason=f"ahead-of-time compilation: {compiled.why_not()}"
)


def _conv(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return kernels.short_conv(x, weight, traversals=["raster", "snake"], silu=True, backend="triton")


def test_played_launches_pass_what_triton_passes() -> None:
    x, weight = torch.zeros(1, 4, 4, 4, 32), torch.zeros(2, 32, 4)
    with host.dry_launches() as seen, torch.no_grad():
        rounds: list[list[tuple[Any, ...]]] = []
        for _ in range(3):  # triton's launch, the recorded one, the played one
            seen.clear()
            _conv(x, weight)
            rounds.append(list(seen))
        first, _, played = rounds
        assert len(first) == len(played) > 0
        for ordinary, replay in zip(first, played, strict=True):
            assert len(ordinary) == len(replay)
            for a, b in zip(ordinary, replay, strict=True):
                if isinstance(a, torch.Tensor):
                    assert isinstance(b, int)
                    assert b % 16 == 0  # as aligned as what the kernel was compiled for
                elif not callable(a):  # hooks stay away where no profiler listens
                    assert a == b


def test_a_launcher_that_refuses_gets_ordinary_launches_and_one_warning() -> None:
    x, weight = torch.zeros(1, 4, 4, 4, 32), torch.zeros(2, 32, 4)
    launched: list[Any] = []

    def refuse(self: Any, *given: Any) -> None:
        if not any(isinstance(one, torch.Tensor) for one in given):
            raise TypeError("function takes exactly 18 arguments")
        launched.append(given)

    prepared._warn_unplayable.cache_clear()
    with host.dry_launches(), torch.no_grad(), mock.patch.object(host.Compiled, "run", refuse):
        _conv(x, weight)
        _conv(x, weight)
        with pytest.warns(UserWarning, match="exactly 18 arguments"):
            _conv(x, weight)
        launched.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            _conv(x, weight)
        assert launched
