"""The files that a page with a viewer carries: NiiVue, our script, their licences and their hashes.

NiiVue 0.69.0 lies here as npm gave it, compressed. It is checked against its SHA-256 when a page is written and again by
the page before it runs; the page's policy names the same hash, so that a browser starts no other script.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources

from medseg.errors import ResourceError

ENGINE = "niivue-0.69.0.umd.js.gz"
ENGINE_SHA256 = "47b896b77ec4a5be3ef1949c33ad393b6f45629921f326c279000bcf51bdb4af"


@dataclass(frozen=True)
class ViewerFiles:
    """What a page needs: the engine as base64 of gzip, the script and style as text, the licences, the hashes for the policy."""

    engine: str
    script: str
    style: str
    licences: str

    @property
    def hashes(self) -> tuple[str, str]:
        """Of the script and of the engine, as a Content-Security-Policy names them."""
        script = hashlib.sha256(self.script.encode("utf-8")).digest()
        return tuple(f"'sha256-{_base64(each)}'" for each in (script, bytes.fromhex(ENGINE_SHA256)))  # type: ignore[return-value]


@cache
def viewer_files() -> ViewerFiles:
    """The files, read once.

    Raises:
        ResourceError: the engine is not the one that this version was tested with.
    """
    here = resources.files(__package__)
    packed = (here / ENGINE).read_bytes()
    found = hashlib.sha256(gzip.decompress(packed)).hexdigest()
    if found != ENGINE_SHA256:
        raise ResourceError(
            f"{ENGINE} of the installed medseg has SHA-256 {found}, expected {ENGINE_SHA256}: install medseg again."
        )
    texts = [(here / name).read_text(encoding="utf-8") for name in ("viewer.js", "viewer.css", "niivue-LICENSES.txt")]
    return ViewerFiles(_base64(packed), *texts)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
