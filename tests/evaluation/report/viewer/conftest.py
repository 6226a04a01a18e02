"""One driver and one browser for the tests of a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.evaluation.report.viewer.chromium import chromium


@pytest.fixture(scope="module")
def start_browser() -> Iterator[Callable[..., Any]]:
    """Start a browser with flags of one's own."""
    with chromium() as start:
        yield start


@pytest.fixture(scope="module")
def browser(start_browser: Callable[..., Any]) -> Any:
    """A browser with software graphics."""
    return start_browser()


@pytest.fixture(autouse=True)
def _close_pages(request: pytest.FixtureRequest) -> Iterator[None]:
    """A page that stays open keeps its volumes in the graphics process."""
    yield
    if "browser" in request.fixturenames:
        for context in request.getfixturevalue("browser").contexts:
            context.close()
