"""Calls that were seen before: their checks, tables and arguments are not worked out again.

`Prepared(function)` calls the function the first time, records it the second (tape.py) and plays the tape from then on. The key is
everything the function's Python can see of its arguments: settings by value, tensors by shape, strides, type, alignment and
device, and the environment that chooses backends. Only calls that launch triton's kernels are recorded.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import tape
from .tape import Tape

MOST = 512  # tapes of a function; then all are forgotten
SEEN, NEVER = "seen", "never"
everywhere = False  # whether calls on other tensors than a GPU's are prepared too: in tests
_all: list[Prepared] = []


class Prepared:
    """A function whose positional arguments are tensors, None, numbers, texts and lists of numbers.

    Args:
        function: gives tensors, or tuples or lists of them; depends on nothing but its arguments and the environment.
        environment: variables that it looks at.
    """

    def __init__(self, function: Callable[..., Any], *environment: str) -> None:
        self.function, self.environment = function, environment
        self.tapes: dict[Any, Any] = {}
        _all.append(self)

    def __call__(self, *arguments: Any) -> Any:
        """What the function gives."""
        first = arguments[0]
        if not (first.is_cuda or everywhere):
            return self.function(*arguments)
        get = os.environ.get
        key: list[Any] = [first.device, *[get(name) for name in self.environment]]
        tensors: list[Tensor] = []
        for one in arguments:
            if isinstance(one, Tensor):
                tensors.append(one)
                key += (one.shape, one.stride(), one.dtype, one.data_ptr() & 15)
            else:
                key.append(tuple(one) if type(one) is list else one)
        known = self.tapes.get(whole := tuple(key))
        if type(known) is Tape:
            try:
                return known.play(tensors)
            except tape.Unplayable as refused:
                _warn_unplayable(str(refused))
                known = self.tapes[whole] = NEVER  # nothing but fresh memory was written: the call is run anew
        return self._learn(whole, known, arguments)

    def _learn(self, key: Any, known: Any, arguments: tuple[Any, ...]) -> Any:
        if known is None or known is NEVER:
            before = tape.launched()
            found = self.function(*arguments)
            if known is None:
                if len(self.tapes) >= MOST:
                    self.tapes.clear()
                self.tapes[key] = SEEN if tape.launched() > before else NEVER
            return found
        try:
            found, self.tapes[key] = tape.record(self.function, arguments)
        except tape.Unrecordable:
            self.tapes[key] = NEVER
            return self.function(*arguments)
        return found


@functools.cache
def _warn_unplayable(reason: str) -> None:
    warnings.warn(
        f"medseg_kernels: triton's launcher does not take prepared launches ({reason}); calls are launched the ordinary way, "
        "which costs the host more time. Please report this with the version of triton.",
        stacklevel=4,
    )


def once(check: Callable[..., None]) -> Callable[..., None]:
    """A check that looks at shapes, types, devices and settings only: what passed is not looked at again."""
    passed: set[Any] = set()

    @functools.wraps(check)
    def checked(*arguments: Any, **named: Any) -> None:
        if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined]
            return check(*arguments, **named)
        key = (*map(_described, arguments), *map(_described, named.values()))
        if key not in passed:
            check(*arguments, **named)
            if len(passed) >= MOST:
                passed.clear()
            passed.add(key)

    return checked


def _described(one: Any) -> Any:
    if isinstance(one, Tensor):
        return one.shape, one.dtype, one.device
    kind = type(one)
    if kind is list:
        return tuple(one)
    return tuple([(name, _described(value)) for name, value in one.items()]) if kind is dict else one


def forget() -> None:
    """Forget all tapes: whoever changes how a launcher works (tiles, warps) has to."""
    for one in _all:
        one.tapes.clear()
