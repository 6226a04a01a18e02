"""The page of `medseg view` in a real browser, and what another page can get out of its server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from medseg.commands.view import open_view
from medseg.io.header import Header
from medseg.io.volume import write_image, write_label
from medseg.server.app import PageServer
from tests.evaluation.report.viewer.chromium import chromium, visit
from tests.evaluation.report.viewer.pages import blobs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as start:
        yield start()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    folder = tmp_path_factory.mktemp("view")
    image, label, _ = blobs(0, (40, 36, 24))
    like = Header.of_array(image.shape, np.diag([-1.0, -1.0, 2.0, 1.0]))
    write_image(folder / "scan.nrrd", image, like)
    write_label(folder / "label.mha", label, like)
    with open_view(folder / "scan.nrrd", folder / "label.mha", names={1: "liver"}) as started:
        threading.Thread(target=started.serve_forever, daemon=True).start()
        yield started
        started.shutdown()


def test_the_page_shows_the_scan_and_asks_its_own_server_alone(browser: Any, server: PageServer) -> None:
    seen = visit(browser, server.address)
    assert seen.ready() == ""
    names = ["", "volume/image", "volume/prediction"]
    assert seen.requests[:3] == [server.address + name for name in names]
    assert all(one.startswith(f"http://127.0.0.1:{server.server_port}/") for one in seen.requests)
    assert seen.violations() == []
    assert "liver" in seen.page.inner_text("#viewer-legend")
    assert "2 (undeclared" in seen.page.inner_text("#viewer-legend")
    assert not seen.page.locator("#viewer-reference").is_visible()
    seen.page.get_by_role("button", name="find liver").click()
    assert seen.named("prediction") == "liver"


def test_another_page_reads_nothing(browser: Any, server: PageServer) -> None:
    with PageServer("<title>another</title>", {}) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        context = browser.new_context()
        page = context.new_page()
        page.goto(other.address)
        ask = "(url) => fetch(url).then((answer) => answer.text()).catch(() => 'nothing')"
        assert page.evaluate(ask, server.address + "volume/image") == "nothing"
        embed = """(url) => new Promise((done) => { const image = new Image(); image.onload = () => done("loaded");
            image.onerror = () => done("nothing"); image.src = url; })"""
        assert page.evaluate(embed, server.address) == "nothing"
        answer = page.goto(f"http://127.0.0.1:{server.server_port}/wrong/")
        assert answer.status == 403
        context.close()
        other.shutdown()


def test_a_volume_above_the_texture_limit_leaves_the_pictures(browser: Any, server: PageServer) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.add_init_script(
        "const get = WebGL2RenderingContext.prototype.getParameter;"
        "WebGL2RenderingContext.prototype.getParameter = function (name) { return name === this.MAX_3D_TEXTURE_SIZE ? 16"
        " : get.call(this, name); };"
    )
    page.goto(server.address)
    page.wait_for_selector("#viewer[data-ready=failed]", state="attached")
    assert "a side of 40 voxels; this browser's graphics take 16" in page.text_content("#viewer-failed")
    assert page.locator("figure > img").is_visible()
    context.close()
