"""2 000 mutated inputs on every run: no crash, no hang, no foreign exception, no wrong voxels under a checksum."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medseg.errors import GeometryError
from medseg.io.formats import mgh
from tests.reliability.fuzz import SLOWEST_S, fuzz
from tests.reliability.mutations import mutate
from tests.reliability.targets import outcome, targets

pytestmark = pytest.mark.requirement("R3")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def test_sound_seeds_are_read(scratch: Path) -> None:
    for name, target in targets().items():
        for number, content in enumerate(target.seeds):
            assert outcome(target, content, scratch / f"seed{number}{target.suffix}") == "read", (name, number)


@settings(
    max_examples=1000,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(name=st.sampled_from(sorted(targets())), which=st.integers(0, 4), choice=st.integers(0, 2**32))
def test_mutated_inputs_are_read_or_refused(scratch: Path, name: str, which: int, choice: int) -> None:
    target = targets()[name]
    content = mutate(target.seeds[which % len(target.seeds)], random.Random(choice))
    begin = time.process_time()
    assert outcome(target, content, scratch / f"input{target.suffix}") in ("read", "refused")
    assert time.process_time() - begin < SLOWEST_S


def test_coverage_guided_inputs_are_read_or_refused() -> None:
    report = fuzz(1000, seed=0)
    assert report.findings == []
    assert report.kept_inputs > 20, "coverage guides: inputs that reach new lines are kept"
    assert all(counts.get("refused") for counts in report.counts.values()), "every reader refuses something"


def test_a_planted_fault_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fuzzer itself is tested: a reader that lets a foreign exception through is reported with its bytes."""
    real = mgh.check_affine

    def faulty(*arguments: Any, **options: Any) -> None:
        try:
            real(*arguments, **options)
        except GeometryError:
            raise KeyError("planted") from None

    monkeypatch.setattr(mgh, "check_affine", faulty)
    report = fuzz(1500, seed=3, traced_share=0)
    assert any("planted" in finding["what"] for finding in report.findings)
