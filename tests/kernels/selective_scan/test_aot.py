"""Every GPU kernel of the selective scan compiles without a GPU, within the registers of its table."""

from __future__ import annotations

import pytest

from tests.kernels import aot

pytestmark = pytest.mark.skipif(aot.why_not() is not None, reason=f"ahead-of-time compilation: {aot.why_not()}")


def test_aot_kernels_keep_to_their_table() -> None:
    aot.quick("selective_scan")


@pytest.mark.slow
def test_aot_every_configuration_on_every_architecture() -> None:
    aot.full("selective_scan")
