"""One pass that cuts an image patch and its label patch along an affine map; value changes of a patch in place."""

from .op import BACKENDS, explain_backend, source_box, warp_patch
from .values import change_gamma, stretch_contrast, symmetric_filter

__all__ = [
    "BACKENDS",
    "change_gamma",
    "explain_backend",
    "source_box",
    "stretch_contrast",
    "symmetric_filter",
    "warp_patch",
]
