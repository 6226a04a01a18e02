"""Which backend of this family runs."""

from __future__ import annotations

import os
from collections.abc import Mapping

from torch import Tensor

from medseg_kernels import dispatch


def choose_backend(backends: Mapping[str, dispatch.Backend], requested: str | None, *tensors: Tensor) -> str:
    """`dispatch.choose`, but MEDSEG_BACKEND=triton, meant for the networks, does not stop the data loader: this family
    has no triton form, and its input lies in the CPU's memory.
    """
    everywhere = os.environ.get(dispatch.ENVIRONMENT)
    own = os.environ.get("MEDSEG_WARP_BACKEND")
    if requested is None and not own and everywhere == "triton":
        requested = next(name for name, backend in backends.items() if backend.refuse(*tensors) is None)
    return dispatch.choose("warp", backends, requested, *tensors)
