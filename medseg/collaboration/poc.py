"""NVFlare's POC, real local processes with certificates of their own, and what became of a site that did not join."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nvflare.recipe.poc_env import PocEnv

from medseg.errors import ResourceError

from .sites import note_failure, site_folder

LOGIN_S = 120  # of the administrator's session: a busy machine starts the server's process slowly
JOIN_S = 180
# what the logs of a site say of a certificate that the server's authority has not signed
REFUSED = re.compile(r"certificate|\bSSL\b|\bTLS\b|handshake|signature", re.IGNORECASE)


class JoinedPoc(PocEnv):
    """POC whose job is stopped where a site does not join, instead of waiting for it without end.

    Args:
        sites: names.
        join_s: seconds that each has to join.
    """

    def __init__(self, sites: Sequence[str], join_s: float = JOIN_S) -> None:
        super().__init__(num_clients=len(sites), clients=list(sites), extra={"login_timeout": LOGIN_S})
        self.sites, self.join_s = list(sites), join_s

    def deploy(self, job: Any) -> str:
        """Start the processes, submit the job, and wait until all sites are there.

        Raises:
            ResourceError: one is not; also written to the site's `failure.txt`, with the cause that its log gives.
        """
        number = str(super().deploy(job))
        absent = self._absent()
        if not absent:
            return number
        causes = {name: self._cause(name) for name in absent}
        for name, cause in causes.items():
            note_failure(site_folder(name), ResourceError(cause))
        self.stop(clean_up=False)
        raise ResourceError("; ".join(f"site {name!r} {cause}" for name, cause in causes.items()))

    def _absent(self) -> list[str]:
        """Sites that have not joined in time."""
        end, absent = time.monotonic() + self.join_s, list(self.sites)
        while absent and time.monotonic() < end:
            session = self._get_session_manager()._get_session()
            try:
                joined = {client.name for client in session.get_system_info().client_info}
            finally:
                session.close()
            absent = [name for name in self.sites if name not in joined]
            if absent:
                time.sleep(2)
        return absent

    def _cause(self, name: str) -> str:
        """Why a site did not join, as far as its log knows."""
        kit = Path(self._get_admin_startup_kit_path()).parent / name
        lines = [
            line for path in sorted(kit.glob("*log*")) if path.is_file()
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if REFUSED.search(line)
        ]  # fmt: skip
        told = f"did not join within {self.join_s:g} s"
        if not lines:
            return f"{told}; its words are in {kit}"
        return (
            f"{told}: its certificate was not accepted ({lines[-1].strip()[-200:]}); every site needs the startup kit "
            "that this server's project made for it"
        )
