"""One pass that cuts an image patch and its label patch along an affine map."""

from .op import BACKENDS, explain_backend, source_box, warp_patch

__all__ = ["BACKENDS", "explain_backend", "source_box", "warp_patch"]
