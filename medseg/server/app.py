"""A small HTTP server for one page: loopback only, behind a random token, deaf to other pages of the same browser.

server = PageServer(page, {"image": volume})
print(server.address)      # http://127.0.0.1:PORT/TOKEN/
server.serve_forever()

A page of the web could ask this server for things, directly (its Origin, or Sec-Fetch-Site, gives it away) or under a name of
its own that it made point to this machine (its Host gives it away). Both are refused, as is everything without the token.
"""

from __future__ import annotations

import errno
import hmac
import secrets
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from medseg.errors import ResourceError

LOOPBACK = "127.0.0.1"
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class PageServer(ThreadingHTTPServer):
    """Serves `page` at `/TOKEN/` and each of `files` at `/TOKEN/NAME`.

    Args:
        page: HTML.
        files: name -> content.
        port: 0 for any that is free.

    Raises:
        ResourceError: the port is taken or not allowed.
    """

    daemon_threads = True
    allow_reuse_address = False  # on Windows it would let two servers share a port

    def __init__(self, page: str, files: Mapping[str, bytes], *, port: int = 0) -> None:
        self.token = secrets.token_urlsafe(24)
        self.contents = {"": ("text/html; charset=utf-8", page.encode("utf-8"))}
        self.contents |= {name: ("application/octet-stream", content) for name, content in files.items()}
        try:
            super().__init__((LOOPBACK, port), _Handler)
        except OverflowError:
            raise ResourceError(f"port {port}: expected a number from 0 (any that is free) to 65535.") from None
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            reason = "is taken by another program" if error.errno == errno.EADDRINUSE else "is not allowed to this user"
            raise ResourceError(
                f"port {port} {reason}; name another with --port, or leave it out for a free one."
            ) from None

    @property
    def address(self) -> str:
        """Of the page."""
        return f"http://{LOOPBACK}:{self.server_port}/{self.token}/"

    @property
    def hosts(self) -> tuple[str, str]:
        """What a browser on this machine calls this server."""
        return f"{LOOPBACK}:{self.server_port}", f"localhost:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that closes a connection early is no error of ours."""


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD."""

    server: PageServer
    timeout = 30  # seconds without a byte
    server_version, sys_version = "medseg", ""

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, format: str, *values: object) -> None:
        """Silent: a line per request would hold the token."""

    def _answer(self) -> None:
        refusal = self._refusal()
        if refusal:
            return self._send(HTTPStatus.FORBIDDEN, "text/plain; charset=utf-8", refusal.encode("utf-8"))
        found = self.server.contents.get(self.path.split("/", 2)[2].partition("?")[0])
        if found is None:
            return self._send(HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", b"no such file here")
        return self._send(HTTPStatus.OK, *found)

    def _refusal(self) -> str:
        """Why the request is refused, or ""."""
        hosts = self.server.hosts
        if self.headers.get("Host", "") not in hosts:
            return "refused: the request names another host than this machine"
        origin = self.headers.get("Origin")
        if origin is not None and origin not in [f"http://{host}" for host in hosts]:
            return "refused: the request comes from another page"
        if self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            return "refused: the request comes from another page"
        given = self.path.split("/")
        if len(given) < 3 or not hmac.compare_digest(given[1].encode("utf-8", "replace"), self.server.token.encode()):
            return "refused: the address lacks its token, or has an old one; use the address that medseg view printed"
        return ""

    def _send(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
