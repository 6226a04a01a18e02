"""The allocation of the Mamba-2-Hybrid study, against its published patterns."""

import pytest

from medseg.errors import ConfigError
from medseg.networks.presets.allocation import allocate

LETTER = {"ssd": "M", "full_attention": "*", "mlp": "-"}
PATTERNS = [
    (56, 0.08, 0.5, "M-M-M--M-M*-M-M-M-M--M*-M-M-M-M-M*--M-M-M-M-M*-M--M-M-M-"),
    (24, 0.08, 0.5, "M-M-M--*M-M-M-M-*M--M-M-"),
    (16, 0.125, 0.5, "M-M--*M-M-*M--M-"),
    (12, 0.08, 0.5, "M-M-M-*-M-M-"),
    (10, 0.1, 0.5, "M-M--*M-M-"),
    (8, 0.125, 0.5, "M-M-*-M-"),
]


@pytest.mark.parametrize(("length", "attention", "mlp", "expected"), PATTERNS)
def test_allocation_equals_the_published_pattern(length: int, attention: float, mlp: float, expected: str) -> None:
    assert "".join(LETTER[name] for name in allocate(length, attention, mlp)) == expected


def test_shares_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected at most 4 together"):
        allocate(4, attention=0.75, mlp=0.75)
