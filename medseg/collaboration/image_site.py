"""The sites of a split network that have images and no labels."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medseg.bundle.load import load_bundle
from medseg.errors import ConfigError, DataError
from medseg.layout import SiteFolder

from .cut import Defence, from_wire, to_wire
from .half import Half, read_half, write_half
from .site_images import Crop, SiteImages
from .split_settings import SplitSettings, encoders_of


class ImageSite:
    """A site with images and no labels: it has one encoder, sends features, and takes their gradients.

    Every method takes and returns plain lists, numbers, names and tensors; nothing else ever leaves.

    Args:
        name: of the site.
        images: its images.
        settings: see `SplitSettings`.
        wire: number format of what is sent.
        defence: what is done before anything leaves.
        folder: where states and the half go; None for none.
        levels: what this site lets go; a job that asks for others is refused.
    """

    def __init__(
        self,
        name: str,
        images: SiteImages,
        settings: SplitSettings,
        *,
        wire: str = "float32",
        defence: Defence | None = None,
        folder: Path | None = None,
        levels: Sequence[int] | None = None,
    ) -> None:
        asked = settings.sent[name]
        refused = sorted(set(asked) - set(asked if levels is None else levels))
        if refused:
            raise ConfigError(
                f"site {name!r}: the job asks for level {refused[0]}, its site.json lets only {list(levels or [])} go"
            )
        self.name, self.images, self.wire, self.levels = name, images, wire, asked
        self.encoder = encoders_of(settings.network())[name]
        self.half = Half(self.encoder, settings, folder)
        self.defence, self.settings = defence or Defence(), settings
        self.pending: tuple[int, list[Tensor], list[Tensor]] | None = None  # step, its cut, what was sent of it
        self.window_size = settings.roi_size
        self.secret = self._secret()
        self.asked = torch.Generator().manual_seed(self.secret ^ 0x5EED)

    def _secret(self) -> int:
        """The seed of this site's noise: made here once, never sent."""
        if self.half.folder is None:
            return 0
        path = SiteFolder(self.half.folder).state / "secret.pt"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save({"secret": secrets.randbits(62)}, path)
        return int(torch.load(path, weights_only=True)["secret"])

    def hello(self) -> dict[str, Any]:
        """Names of the patients here, and steps that it can go on from. Raises BundleError where another training is kept."""
        self.half.claim()
        return {"cases": sorted(self.images.patients), "steps": self.half.kept()}

    def geometry(self, references: list[dict[str, Any]], allow_missing: bool = False) -> int:
        """Take the reference geometry of patients; returns how many are ready."""
        for each in references:
            affine = torch.tensor(each["affine"], dtype=torch.float64).numpy()
            if not self.images.lies_on(each["case"], each["shape"], affine):
                self.images.bring(each["case"], each["shape"], affine, allow_missing=allow_missing)
        return len(self.images.arrays)

    def restore(self, step: int) -> int:
        """Go back to the state after so many steps."""
        if step == 0 and self.half.done:
            raise DataError(f"site {self.name!r} is at step {self.half.done} and cannot go back to the beginning")
        self.half.restore(step)
        self.pending = None
        return self.half.done

    def forward(self, step: int, crops: list[dict[str, Any]]) -> list[Tensor]:
        """Features of the sent levels, finest first, (B, C, *space) each."""
        if self.pending is not None and self.pending[0] == step:
            return self.pending[2]
        if step != self.half.done:
            raise DataError(
                f"site {self.name!r} is at step {self.half.done}, step {step} was asked for; run again to go on"
            )
        self.encoder.train()
        torch.manual_seed(self.settings.seed * 1_000_003 + step)
        batch = self.images.batch([Crop(**{**crop, "center": tuple(crop["center"])}) for crop in crops])
        features = self.encoder(batch)
        noise = torch.Generator().manual_seed((self.secret + step * 7919) % 2**62)
        cut = self.defence.apply([features[level] for level in self.levels], noise)
        sent = to_wire(cut, self.wire)
        self.pending = (step, cut, sent)
        return sent

    def backward(self, step: int, gradients: list[Tensor]) -> int:
        """Take the gradients of what was sent, make the step; returns the steps done. A repeated call changes nothing."""
        if step == self.half.done - 1:
            return self.half.done
        if self.pending is None or self.pending[0] != step:
            raise DataError(f"site {self.name!r} got gradients of step {step} without having sent features of it")
        torch.autograd.backward(self.pending[1], from_wire(gradients))
        self.pending = None
        self.half.update(step)
        self.half.keep()
        return self.half.done

    def window(self, case: str, starts: list[list[int]], roi_size: list[int]) -> list[Tensor]:
        """Features of windows of a patient, for prediction; defences stay on.

        Raises:
            ConfigError: windows of another size than the bundle predicts with. Coarse features of a window of one voxel would
                tell that voxel, whatever levels are withheld.
        """
        if tuple(roi_size) != tuple(self.window_size):
            raise ConfigError(
                f"site {self.name!r}: windows of {list(roi_size)} voxels were asked for, the bundle predicts with "
                f"{list(self.window_size)}; nothing smaller leaves this site"
            )
        self.encoder.eval()
        with torch.no_grad():
            features = self.encoder(self.images.windows(case, starts, roi_size))
            cut = self.defence.apply([features[level] for level in self.levels], self.asked)
        return to_wire(cut, self.wire)

    def load(self) -> int:
        """Take the trained half; returns the steps it has learnt."""
        assert self.half.folder is not None
        self.window_size = load_bundle(self.half.folder).roi_size
        state, self.half.done = read_half(self.half.folder)
        prefix = f"encoder.sites.{self.name}."
        self.encoder.load_state_dict({key.removeprefix(prefix): value for key, value in state.items()})
        return self.half.done

    def finish(self) -> int:
        """Write this site's half; returns the steps it has learnt."""
        if self.half.folder is not None:
            state = {f"encoder.sites.{self.name}.{key}": value for key, value in self.encoder.state_dict().items()}
            write_half(self.half.folder, state, self.half.done)
        return self.half.done
