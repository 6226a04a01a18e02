"""The local page answers whoever has its token, under its own name, and no other page of the same browser."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator

import pytest

from medseg.errors import ResourceError
from medseg.server.app import PageServer


@pytest.fixture(scope="module")
def server() -> Iterator[PageServer]:
    with PageServer("<p>page</p>", {"volume/image": b"voxels"}) as started:
        threading.Thread(target=started.serve_forever, daemon=True).start()
        yield started
        started.shutdown()


def _ask(server: PageServer, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.putrequest(method, path, skip_host=True)
    given = {"Host": f"127.0.0.1:{server.server_port}"} | {
        name.replace("_", "-"): text for name, text in headers.items()
    }
    for name, text in given.items():
        connection.putheader(name, text)
    connection.endheaders()
    answer = connection.getresponse()
    return answer.status, answer.read(), dict(answer.getheaders())


def test_the_page_and_its_files_are_served_on_loopback_alone(server: PageServer) -> None:
    status, content, headers = _ask(server, f"/{server.token}/")
    assert (status, content) == (200, b"<p>page</p>")
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "Access-Control-Allow-Origin" not in headers
    assert _ask(server, f"/{server.token}/volume/image")[:2] == (200, b"voxels")
    assert _ask(server, f"/{server.token}/", "HEAD")[:2] == (200, b"")
    assert _ask(server, f"/{server.token}/../app")[0] == 404
    assert server.server_address[0] == "127.0.0.1"
    assert len(server.token) >= 32
    assert PageServer.allow_reuse_address is False


@pytest.mark.parametrize("path", ["/", "/wrong/", "//", "/wrong/volume/image", "/%C3%A9/", "*", "/TOKEN", "/x/TOKEN/"])
def test_without_the_token_nothing_is_served(server: PageServer, path: str) -> None:
    status, content, _ = _ask(server, path.replace("TOKEN", server.token))
    assert status == 403
    assert b"token" in content


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://example.org"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Host": "example.org"},
        {"Host": ""},
        {"Host": "127.0.0.1"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
    ids=str,
)
def test_another_page_is_refused_even_with_the_token(server: PageServer, headers: dict[str, str]) -> None:
    status, content, _ = _ask(server, f"/{server.token}/volume/image", **headers)
    assert status == 403
    assert content.startswith(b"refused: the request")
    own = {"Origin": f"http://localhost:{server.server_port}", "Sec_Fetch_Site": "same-origin"}
    assert _ask(server, f"/{server.token}/volume/image", **own)[0] == 200


def test_only_reading_is_possible(server: PageServer) -> None:
    assert _ask(server, f"/{server.token}/", "POST")[0] == 501
    assert _ask(server, f"/{server.token}/", "DELETE")[0] == 501


def test_a_port_that_is_taken_or_absurd_is_one_line() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ResourceError, match=f"port {port} is taken .* --port, or leave it out"):
            PageServer("", {}, port=port)
    with pytest.raises(ResourceError, match="port 70000: expected a number from 0"):
        PageServer("", {}, port=70000)
