"""Engines compute the same function; which one runs is timed, remembered, and can be named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from medseg.errors import ConfigError
from medseg.inference.engines import choice


@pytest.fixture(autouse=True)
def _private_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MEDSEG_CACHE", str(tmp_path))


@pytest.fixture
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    layers = [torch.nn.Conv3d(1, 4, 3, padding=1), torch.nn.InstanceNorm3d(4), torch.nn.Conv3d(4, 3, 1)]
    return torch.nn.Sequential(*layers).eval()


def test_eager_is_the_network_itself(network) -> None:
    window = torch.randn(2, 1, 8, 8, 8)
    with torch.inference_mode():
        engine = choice.build_engine(network, window, name="eager", precision="fp32")
        assert torch.equal(engine(window), network(window))


def test_openvino_agrees_and_keeps_its_model(network, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    window = torch.randn(1, 1, 8, 8, 8)
    with torch.inference_mode():
        engine = choice.build_engine(network, window, name="openvino", precision="fp32")
        torch.testing.assert_close(engine(window), network(window), atol=1e-4, rtol=1e-4)
        kept = sorted(path.suffix for path in (tmp_path / "openvino").iterdir())
        assert kept == [".bin", ".xml"]
        again = choice.build_engine(network, window, name="openvino", precision="fp32")
        torch.testing.assert_close(again(window), engine(window))
        network[0].weight.mul_(2.0)  # other weights, other model
        choice.build_engine(network, window, name="openvino", precision="fp32")
    assert len(list((tmp_path / "openvino").glob("*.xml"))) == 2


def test_results_of_openvino_outlive_the_next_call(network) -> None:
    pytest.importorskip("openvino")
    first, second = torch.randn(2, 1, 1, 6, 6, 6)
    with torch.inference_mode():
        engine = choice.build_engine(network, first, name="openvino", precision="fp32")
        kept = engine(first)
        before = kept.clone()
        engine(second)
    assert torch.equal(kept, before)


def test_few_windows_build_nothing(network) -> None:
    engine = choice.choose_engine(network, torch.randn(1, 1, 8, 8, 8), windows=2)
    assert engine.name == "eager"
    assert "nothing else would pay" in engine.reason


def test_the_fastest_is_taken_and_remembered(network, monkeypatch, tmp_path: Path) -> None:
    window = torch.randn(1, 1, 8, 8, 8)
    monkeypatch.setattr(choice, "PAYS_AFTER_S", {"fast": 0.0})

    def slow(net, example, precision):
        def run(windows):
            torch.mm(torch.ones(400, 400), torch.ones(400, 400))
            return net(windows)

        return run

    monkeypatch.setattr(choice, "ENGINES", {"eager": slow, "fast": lambda net, example, precision: net})
    engine = choice.choose_engine(network, window, windows=100)
    assert engine.name == "fast"
    assert "eager" in engine.reason
    assert list(json.loads((tmp_path / "engines.json").read_text()).values()) == ["fast"]
    again = choice.choose_engine(network, window, windows=100)
    assert "earlier" in again.reason


def test_an_engine_that_computes_something_else_is_refused(network, monkeypatch) -> None:
    monkeypatch.setattr(choice, "PAYS_AFTER_S", {"wrong": 0.0})
    wrong = {"eager": choice.ENGINES["eager"], "wrong": lambda net, example, precision: lambda w: net(w) * 1.1}
    monkeypatch.setattr(choice, "ENGINES", wrong)
    engine = choice.choose_engine(network, torch.randn(1, 1, 8, 8, 8), windows=100)
    assert engine.name == "eager"
    assert "differ from eager" in engine.refused["wrong"]


def test_an_engine_by_name_that_cannot_run_says_why(network, monkeypatch) -> None:
    def broken(net, example, precision):
        raise RuntimeError("no such operator")

    monkeypatch.setitem(choice.ENGINES, "openvino", broken)
    with pytest.raises(ConfigError, match="no such operator"):
        choice.choose_engine(network, torch.randn(1, 1, 8, 8, 8), name="openvino")


def test_networks_that_return_several_outputs_give_the_first() -> None:
    class Several(torch.nn.Module):
        def forward(self, windows):
            return [{"full": windows, "half": windows[..., ::2]}]

    window = torch.randn(1, 1, 4, 4, 4)
    assert torch.equal(choice.build_engine(Several(), window, name="eager", precision="fp32")(window), window)
