"""An installed Chromium, driven without a window, with software graphics and without a network, and what a page did in it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

SOFTWARE_GL = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
ALONE = (
    "--no-first-run",
    "--disable-background-networking",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
READY = "#viewer[data-ready=yes], #viewer[data-ready=failed]"
LISTEN = """
window.violations = [];
document.addEventListener("securitypolicyviolation",
  (event) => window.violations.push(`${event.violatedDirective} ${event.blockedURI}`));
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (entry.element?.tagName === "IMG") window.pictured ??= entry.startTime;
}).observe({ type: "largest-contentful-paint", buffered: true });
"""


def where() -> str:
    """The program; skips the test where there is none."""
    found = os.environ.get("MEDSEG_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if not found:
        pytest.skip("no Chromium found")
    return found


@contextmanager
def chromium(program: str | None = None) -> Iterator[Callable[..., Any]]:
    """A function that starts a browser, with flags in place of those for software graphics; all are closed at the end."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.skip("the package playwright is not installed")
    path = program or where()
    # Chromium refuses to run as root with its sandbox
    root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with sync_playwright() as play:
        started: list[Any] = []

        def start(*flags: str) -> Any:
            given = [*ALONE, *root, *(flags or SOFTWARE_GL)]
            started.append(play.chromium.launch(executable_path=path, args=given))
            return started[-1]

        try:
            yield start
        finally:
            for browser in started:
                browser.close()


@dataclass
class Seen:
    """A page and what it did: addresses asked for, errors, dialogs."""

    page: Any
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)

    def violations(self) -> list[str]:
        """Of the page's policy."""
        return list(self.page.evaluate("window.violations"))

    def ready(self, seconds: float = 120) -> str:
        """Wait for the viewer; why it failed, or ""."""
        self.page.wait_for_selector(READY, state="attached", timeout=seconds * 1000)
        return str(self.page.text_content("#viewer-failed"))

    def pictured(self) -> float:
        """When the first large picture was on the screen, as `time.time()` counts."""
        self.page.wait_for_timeout(500)  # the browser tells of it when it has nothing else to do
        return float(self.page.evaluate("(performance.timeOrigin + (window.pictured ?? NaN)) / 1000"))

    def place(self) -> list[float]:
        """Millimetres of the crosshair as the page says them."""
        words = self.page.inner_text("#viewer-place")
        return [float(number) for number in re.findall(r"[xyz] (-?\d+\.\d+)", words)]

    def named(self, kind: str) -> str:
        """The name that the page gives for the label under the crosshair."""
        return re.split(r"   |$", self.page.text_content("#viewer-place").split(f"{kind}: ")[1])[0].strip()


def visit(
    browser: Any, address: str, *, size: tuple[int, int] = (800, 700), until: Any = "load", **options: Any
) -> Seen:
    """Open a page in a window of `size` pixels, listening from its first moment; return at the event `until`."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **options)
    page = context.new_page()
    page.add_init_script(LISTEN)
    seen = Seen(page)
    page.on("request", lambda request: seen.requests.append(request.url))
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    page.on("console", lambda said: seen.errors.append(said.text) if said.type == "error" else None)
    page.on("dialog", lambda dialog: (seen.dialogs.append(dialog.message), dialog.dismiss()))
    page.goto(address, wait_until=until)
    return seen
