"""A network that a stranger describes is built within limits: a small file can ask for a million layers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from medseg.errors import BundleError

MOST_MODULES = 10_000  # the largest of the public model zoo has some thousands
MOST_NUMBERS = 1_000_000_000  # parameters and buffers; 4 GB in float32


@contextmanager
def measured() -> Iterator[None]:
    """Count what networks built inside, by this thread, are made of.

    Raises:
        BundleError: as soon as they have more modules or numbers than any that we know, before the numbers are drawn.
    """
    from torch.nn.modules import module as hooks

    mine, counts = threading.get_ident(), {"modules": 0, "numbers": 0}

    def add(what: str, count: int, most: int) -> None:
        if threading.get_ident() != mine:
            return
        counts[what] += count
        if counts[what] > most:
            raise BundleError(f"makes a network of more than {most} {what}; no bundle that we know comes near that")

    def on_module(_module: object, _name: str, _child: object) -> None:
        add("modules", 1, MOST_MODULES)

    def on_numbers(_module: object, _name: str, value: Any) -> None:
        add("numbers", 0 if value is None else value.numel(), MOST_NUMBERS)

    handles = [
        hooks.register_module_module_registration_hook(on_module),
        hooks.register_module_parameter_registration_hook(on_numbers),
        hooks.register_module_buffer_registration_hook(on_numbers),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
