"""The sites of a split job inside NVFlare (Collab API): the label site is the server, the others are its clients."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nvflare.collab import collab
from torch import Tensor

from medseg.io.atomic import write_json
from medseg.layout import SiteFolder

from .across import predict_across
from .exchange import begin, train
from .image_site import ImageSite
from .opening import SplitJob, open_image_site, open_label_site
from .sites import note_failure, site_folder


class SplitServer:
    """The label site.

    Args:
        job: fields of `SplitJob`.
    """

    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job

    @collab.main
    def run(self) -> None:
        """Train or predict with all sites."""
        job = SplitJob(**self.job)
        folder = site_folder(job.label_site)
        try:
            self._run(job, folder)
        except Exception as error:
            traceback.print_exc()
            note_failure(folder, error)
            raise

    def _run(self, job: SplitJob, folder: Path) -> None:
        label = open_label_site(folder, job)
        proxies = collab.get_clients(list(job.image_sites))
        others = {proxy.name: _Timed(proxy, job.timeout_s) for proxy in proxies}
        names = list(job.cases)
        if job.purpose == "predict":
            made = SiteFolder(folder).predictions
            predict_across(label, others, names, made, allow_missing=job.allow_missing)
            return
        first = begin(label, others, names, allow_missing=job.allow_missing)
        print(f"from step {first} of {label.settings.steps}", flush=True)
        losses = train(label, others, first, lambda step, loss: print(f"step {step}: loss {loss:.4f}", flush=True))
        write_json(SiteFolder(folder).losses, losses)


class _Timed:
    """A client proxy, each call with the job's timeout."""

    def __init__(self, proxy: Any, timeout_s: float) -> None:
        self._proxy, self._timeout = proxy, timeout_s

    def __getattr__(self, name: str) -> Any:
        return getattr(self._proxy(timeout=self._timeout), name)


class SplitClient:
    """A site with images.

    Args:
        job: fields of `SplitJob`.
    """

    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job

    def _do(self, work: Callable[[ImageSite], Any]) -> Any:
        folder = site_folder(collab.site_name)
        with _LOCK:
            try:
                if folder not in _OPEN:
                    _OPEN[folder] = open_image_site(folder, SplitJob(**self.job))
                return work(_OPEN[folder])
            except Exception as error:
                traceback.print_exc()
                note_failure(folder, error)
                raise

    @collab.publish
    def hello(self) -> dict[str, Any]:
        """See `ImageSite`; so are the others."""
        return dict(self._do(lambda site: site.hello()))

    @collab.publish
    def geometry(self, references: list, allow_missing: bool) -> int:
        return int(self._do(lambda site: site.geometry(references, allow_missing)))

    @collab.publish
    def restore(self, step: int) -> int:
        return int(self._do(lambda site: site.restore(step)))

    @collab.publish
    def forward(self, step: int, crops: list) -> list[Tensor]:
        return list(self._do(lambda site: site.forward(step, crops)))

    @collab.publish
    def backward(self, step: int, gradients: list) -> int:
        return int(self._do(lambda site: site.backward(step, gradients)))

    @collab.publish
    def window(self, case: str, starts: list, roi_size: list) -> list[Tensor]:
        return list(self._do(lambda site: site.window(case, starts, roi_size)))

    @collab.publish
    def load(self) -> int:
        return int(self._do(lambda site: site.load()))

    @collab.publish
    def finish(self) -> int:
        return int(self._do(lambda site: site.finish()))


_LOCK = threading.Lock()
_OPEN: dict[Path, ImageSite] = {}
