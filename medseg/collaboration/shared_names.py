"""Which patients all sites have, by Diffie-Hellman private set intersection: what is not shared is told to nobody.

NVFlare's recipe and openmined's protocol do it. Sites and server learn how many names each site has; a site that lists names
which it only guesses learns which of them the others have.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nvflare.app_common.psi.psi_spec import PSI
from nvflare.app_common.psi.recipes.dh_psi import DhPSIRecipe

from medseg.io.atomic import write_text
from medseg.layout import SiteFolder

from .jobs import installed_only
from .patient_files import patient_names
from .sites import note_failure, read_site, site_folder

MARK = "medseg_names"


class SiteNames(PSI):
    """A site's own names, and what became of them.

    Args:
        psi_writer_id: NVFlare's name of the writer beside it.
    """

    def __init__(self, psi_writer_id: str = "psi_writer") -> None:
        super().__init__(psi_writer_id)

    def _folder(self) -> Path:
        return site_folder(str(self.fl_ctx.get_identity_name()))

    def load_items(self) -> list[str]:
        """Names of the patients in the site's data folder. A failure is also left in the site's folder."""
        folder = self._folder()
        try:
            return patient_names(Path(read_site(folder).data_folder))
        except Exception as error:
            note_failure(folder, error)
            raise

    def save(self, intersection: list[str]) -> None:
        """Keep the shared names in the site's folder."""
        super().save(intersection)
        write_text(SiteFolder(self._folder()).shared_names, "".join(f"{name}\n" for name in sorted(intersection)))


def names_recipe(name: str, sites: Sequence[str]) -> Any:
    """NVFlare's recipe of an intersection; a file is written into the working folder."""
    recipe = DhPSIRecipe(name=name, min_clients=len(sites), local_psi=SiteNames())
    # a job without a file of its own may only use NVFlare's classes
    mark = Path(MARK).with_suffix(".py")
    mark.write_text('"""Names of patients are compared by medseg.collaboration.shared_names."""\n', encoding="utf-8")
    recipe.add_client_file(str(mark))
    return installed_only(recipe)
