"""The page in a real browser: the viewer takes the pictures' places, asks for nothing, and without WebGL2 nothing is lost."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest

from medseg.evaluation.report.sections import Scene
from tests.evaluation.report.viewer.chromium import Seen, visit
from tests.evaluation.report.viewer.pages import blobs, forty_cases, page_of

AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    scenes = [Scene(f"case_{i}", *blobs(i, (40, 36, 24)), AFFINE) for i in range(2)]
    folder = tmp_path_factory.mktemp("pages") / "Bericht für Ärzte"
    return page_of(folder / "report (1).html", scenes, {1: "liver", 2: "spleen"})


def _clean(seen: Seen, address: str) -> None:
    assert seen.requests == [address]
    assert seen.violations() == []
    assert seen.errors == []
    assert seen.dialogs == []


def test_the_viewer_takes_the_place_of_the_picture_and_asks_for_nothing(browser: Any, address: str) -> None:
    seen = visit(browser, address)
    assert seen.ready() == ""
    page = seen.page
    assert page.evaluate("document.querySelectorAll('canvas').length") == 1
    assert page.locator("figure.looking #viewer").is_visible()
    pictures = page.locator("figure > img")
    assert [pictures.nth(i).is_visible() for i in range(2)] == [False, True]
    assert len(seen.place()) == 3
    assert page.locator("#viewer-legend tbody tr").count() == 2
    assert "ml" in page.inner_text("#viewer-legend")
    # the other case in the place of its own picture, with the same canvas; and the picture beside the viewer
    page.get_by_role("button", name="look into case_1").click()
    page.wait_for_selector("figure:nth-of-type(2) #viewer[data-ready=yes]")
    assert [pictures.nth(i).is_visible() for i in range(2)] == [True, False]
    page.check("#viewer-picture")
    assert pictures.nth(1).is_visible()
    _clean(seen, address)


@pytest.mark.slow
def test_without_webgl_every_picture_and_table_is_there(start_browser: Callable[..., Any], address: str) -> None:
    seen = visit(start_browser("--disable-3d-apis"), address)
    assert "this browser offers no WebGL2" in seen.ready()
    pictures = seen.page.locator("figure > img")
    assert all(pictures.nth(i).is_visible() for i in range(2))
    assert seen.page.locator("#viewer-failed").is_visible()
    assert not seen.page.locator("#viewer").is_visible()
    _clean(seen, address)


@pytest.mark.slow
def test_without_javascript_every_picture_and_table_is_there(browser: Any, tmp_path: Path) -> None:
    address = forty_cases(tmp_path / "report.html", (48, 40, 24))
    seen = visit(browser, address, java_script_enabled=False)
    pictures, page = seen.page.locator("figure > img"), seen.page
    assert pictures.count() == 5
    assert all(pictures.nth(i).is_visible() for i in range(5))
    assert pictures.first.bounding_box()["y"] < 400  # before anything else
    assert page.locator("table").count() >= 2
    assert page.locator("figure > svg").first.is_visible()
    assert not page.locator("#viewer").is_visible()
    assert "Cropped" not in page.inner_text("body")


@pytest.mark.slow
def test_a_changed_engine_does_not_run_and_the_pictures_stay(browser: Any, address: str, tmp_path: Path) -> None:
    text = Path(unquote(address.removeprefix("file://"))).read_text(encoding="utf-8")
    other, place = tmp_path / "other.html", text.index('id="viewer-engine">')
    engine = text.index("<", place + 20)
    other.write_text(text[: place + 19] + _packed("window.ran = 1") + text[engine:])
    seen = visit(browser, other.as_uri())
    assert "has SHA-256" in seen.ready()
    assert seen.page.evaluate("window.ran") is None
    assert seen.page.locator("figure > img").first.is_visible()


def _packed(source: str) -> str:
    return base64.b64encode(gzip.compress(source.encode())).decode()


@pytest.mark.slow
def test_forty_cases_with_three_volumes_are_six_megabytes_and_no_request(browser: Any, tmp_path: Path) -> None:
    address = forty_cases(tmp_path / "Bericht für Ärzte, 40.html")
    (page,) = tmp_path.glob("*.html")
    assert page.stat().st_size <= 6_000_000
    seen = visit(browser, address)
    assert seen.ready() == ""
    assert seen.page.get_by_role("button", name="look into").count() == 3
    _clean(seen, address)


@pytest.mark.slow
def test_every_control_is_reached_and_used_by_keys_alone(browser: Any, address: str) -> None:
    seen = visit(browser, address)
    assert seen.ready() == ""
    page, reached = seen.page, []
    for _ in range(60):
        page.keyboard.press("Tab")
        focused = page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()")
        reached.append(focused)
    controls = page.evaluate(
        "Array.from(document.querySelectorAll('#viewer [id]:is(input, select, canvas)'), (e) => e.id)"
    )
    assert set(controls) | {"viewer-legend-box", "find", "Look into this case", "NiiVue 0.69.0: licences"} <= set(
        reached
    )
    assert len(controls) == 11
    page.focus("#viewer-canvas")
    for key, axis, way in (("ArrowLeft", 0, 2.0), ("ArrowRight", 0, -2.0), ("ArrowUp", 1, 2.0), ("PageDown", 2, -3.0)):
        before = seen.place()
        page.keyboard.press(key)
        moved = np.subtract(seen.place(), before)
        assert moved[axis] == pytest.approx(way, abs=0.02)
        assert np.abs(np.delete(moved, axis)).max() <= 0.02
    page.keyboard.press("r")
    assert page.is_checked("#viewer-reference")
    page.keyboard.press("v")
    assert page.input_value("#viewer-view") == "axial"
    page.keyboard.press("w")
    assert page.input_value("#viewer-window") == "1"
    low = page.input_value("#viewer-low")
    page.focus("#viewer-window")
    page.keyboard.press("ArrowDown")
    assert page.input_value("#viewer-low") != low
    page.focus("#viewer-prediction")
    page.keyboard.press("Space")
    assert not page.is_checked("#viewer-prediction")
    _clean(seen, address)


CONTRAST = """
() => {
  const light = (c) => { const [r, g, b] = c.map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const parse = (text) => { const n = text.match(/[\\d.]+/g).map(Number); return n.length > 3 ? n : [...n, 1]; };
  const found = [];
  document.querySelectorAll("details").forEach((one) => { one.open = true; });
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement, words = walk.currentNode.textContent.trim();
    if (!words || element.closest("script, style, :disabled") || !element.checkVisibility()) continue;
    const style = getComputedStyle(element), ink = parse(element.closest("svg") ? style.fill : style.color);
    let under = element, page = [0, 0, 0, 0];
    while (under && page[3] < 0.7) { page = parse(getComputedStyle(under).backgroundColor); under = under.parentElement; }
    const [dark, bright] = [light(ink.slice(0, 3)), light(page.slice(0, 3))].sort((a, b) => a - b);
    found.push([(bright + 0.05) / (dark + 0.05), words.slice(0, 40)]);
  }
  return found;
}
"""


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_has_its_contrast(browser: Any, tmp_path: Path, theme: str) -> None:
    address = forty_cases(tmp_path / "report.html", (48, 40, 24))
    seen = visit(browser, address, color_scheme=theme)
    assert seen.ready() == ""
    found = seen.page.evaluate(CONTRAST)
    assert len(found) > 150
    assert min(found)[0] >= 4.5, min(found)
    background = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 24, 29)"}[theme]
