"""A stand-in for a function that a bundle may name but must not get as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def load_tensors(path: Any, *_ignored: Any, **_also_ignored: Any) -> dict[str, Any]:
    """What an untrusted bundle gets for `torch.load`: tensors only, on the CPU, whatever arguments it gave."""
    from .weights import read_state_dict

    return read_state_dict(Path(str(path)))
