"""A tape of one call: what it allocates, what torch computes and what is launched, to be played again on other addresses.

A family's launcher spends most of its time in Python: views, strides, tables, triton's look at every argument. All of it follows
from the arguments' shapes, strides, types, alignment and settings. So the second call with the same ones is recorded (every
operator below autograd, every launch), and later ones are played: one allocation per result, one for all workspaces, and
the launches with new addresses. Nothing is left out that reads or writes memory; what depends on values refuses to be recorded.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from .tape_steps import Launch, Memory, Operation, Place, View

ALIGNED = 256  # bytes, as CUDA's allocator aligns
MOST_STEPS = 64
EMPTY = ("aten.empty.", "aten.empty_strided.", "aten.empty_like.", "aten.new_empty.", "aten.new_empty_strided.")
_active = threading.local()


class Unrecordable(Exception):
    """The call reads a number from a tensor, or starts too much for playing it to make sense."""


class Unplayable(Exception):
    """Triton's launcher does not take what a tape gives it: another triton than those this was written for."""


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **named: Any) -> None:
    """`kernel[grid](...)`, seen by the tape that is being recorded, if any."""
    _active.launched = getattr(_active, "launched", 0) + 1
    recorder = getattr(_active, "recorder", None)
    if recorder is None:
        kernel[grid](*arguments, **named)
        return
    with _disable_current_modes():  # what triton's interpreter does with torch is no part of the call
        compiled = kernel[grid](*arguments, **named)
    recorder.note_launch(kernel, compiled, grid, arguments, named)


def launched() -> int:
    """Launches by this thread so far."""
    return int(getattr(_active, "launched", 0))


class _Recorder(TorchDispatchMode):
    """Notes every operator that works or allocates, and where each tensor lies."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.places: dict[int, Place] = {}
        self.made: dict[int, tuple[Any, ...]] = {}  # slot -> shape, strides, type
        self.alive: list[Tensor] = []  # as long as a tensor lives, no other has its id
        self.slots = 0
        self.memory: dict[int, Memory] = {}
        self.constants: dict[int, Tensor] = {}
        self.steps: list[Operation | Launch] = []
        for tensor in inputs:
            self.fresh(tensor)

    def fresh(self, tensor: Tensor) -> int:
        """A slot of its own for a tensor."""
        self.places[id(tensor)] = Place(self.slots, 0)
        self.made[self.slots] = (tensor.shape, tensor.stride(), tensor.dtype)
        self.alive.append(tensor)
        self.slots += 1
        return self.slots - 1

    def place(self, tensor: Tensor) -> Place:
        """Where a tensor lies; one that nobody made here is a constant: a table out of a cache."""
        if id(tensor) not in self.places:
            self.constants[self.fresh(tensor)] = tensor
        return self.places[id(tensor)]

    def view(self, tensor: Tensor) -> View:
        """A tensor as a step keeps it."""
        place, form = self.place(tensor), (tensor.shape, tensor.stride(), tensor.dtype)
        return View(place, place.offset == 0 and form == self.made[place.slot], *form)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        name = str(function)
        if not isinstance(found, (Tensor, tuple, list)):
            raise Unrecordable(f"{name} gives a number")
        made: list[Tensor] = [found] if isinstance(found, Tensor) else list(found)
        alias = function._schema.returns[0].alias_info if function._schema.returns else None
        if name.startswith(EMPTY):
            slot = self.fresh(made[0])
            self.memory[slot] = Memory(slot, tuple(made[0].shape), made[0].stride(), made[0].dtype)
        elif alias is not None and not alias.is_write:
            for tensor in made:
                self._note_view(args[0], tensor)
        else:
            given = _each((args, kwargs or {}), Tensor, self.view)
            results = [] if alias is not None else [self.fresh(tensor) for tensor in made]
            self._add(Operation(function, given, _filler(given), results))
        return found

    def _note_view(self, base: Tensor, tensor: Tensor) -> None:
        """A view lies where its base lies; an empty tensor has no address."""
        slot, offset = self.place(base)
        if id(tensor) not in self.places:
            moved = int(tensor.storage_offset() - base.storage_offset()) * base.element_size()
            if tensor.dtype != base.dtype:
                raise Unrecordable("a view of another type")
            self.places[id(tensor)] = Place(slot, offset + moved)
            self.alive.append(tensor)

    def _add(self, step: Operation | Launch) -> None:
        if len(self.steps) == MOST_STEPS:
            raise Unrecordable(f"more than {MOST_STEPS} steps")
        self.steps.append(step)

    def note_launch(self, kernel: Any, compiled: Any, grid: tuple[int, ...], given: Any, named: dict[str, Any]) -> None:
        """A launch with its arguments in the kernel's order."""
        names = kernel.arg_names
        known = dict(zip(names, given, strict=False)) | named
        defaults = {p.name: p.default for p in getattr(kernel, "params", ()) if p.name not in known}
        arguments = [known[name] if name in known else defaults[name] for name in names]
        options = {name: value for name, value in named.items() if name not in names}
        addresses = []
        for number, value in enumerate(arguments):
            if isinstance(value, Tensor):
                view = self.view(value)
                arguments[number] = 0 if compiled is not None else view
                addresses.append((number, *view.place))
        whole: Any = (*(int(side) for side in grid), 1, 1)[:3]
        run = None if compiled is None else compiled.run
        head = () if compiled is None else (compiled.function, compiled.packed_metadata)
        self._add(Launch(kernel, compiled, run, head, whole, arguments, addresses, options))


@dataclass
class Tape:
    """A recorded call; `play` gives what the call would give."""

    inputs: int
    slots: int
    device: torch.device
    steps: list[Operation | Launch]
    results: list[Memory]  # allocations that torch sees: each a tensor of its own
    constants: dict[int, Tensor]
    outputs: Callable[[list[Any]], Any]  # the result
    arena: int = 0  # bytes of all workspaces together
    workspaces: list[tuple[int, int]] = field(default_factory=list)  # slot, bytes from the arena's start

    def play(self, tensors: Sequence[Tensor]) -> Any:
        """The call on other tensors of the same shapes, strides, types, device and alignment."""
        found: list[Any] = [*tensors, *[None] * (self.slots - self.inputs)]
        where = [tensor.data_ptr() for tensor in tensors] + [0] * (self.slots - self.inputs)
        for slot, shape, stride, dtype in self.results:
            made = torch.empty_strided(shape, stride, dtype=dtype, device=self.device)
            found[slot], where[slot] = made, made.data_ptr()
        for slot, tensor in self.constants.items():
            found[slot], where[slot] = tensor, tensor.data_ptr()
        if self.workspaces:
            arena = torch.empty(self.arena, dtype=torch.uint8, device=self.device)
            start = arena.data_ptr()
            for slot, offset in self.workspaces:
                where[slot] = start + offset
        stream = self._stream()
        for step in self.steps:
            if type(step) is Operation:
                _operate(step, found, where)
            else:
                _start(step, found, where, stream)  # type: ignore[arg-type]
        return self.outputs(found)

    def _stream(self) -> int:
        """Handle of the stream that is current on the device."""
        if self.device.type != "cuda":
            return 0
        return int(torch._C._cuda_getCurrentRawStream(self.device.index))


@functools.cache
def _knobs() -> Any:
    """Triton's settings of launches."""
    from triton import knobs

    return knobs.runtime


def _each(value: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """Nested tuples, lists and dicts with the values of a kind changed."""
    if isinstance(value, kind):
        return change(value)
    if type(value) is tuple or type(value) is list:
        return type(value)([_each(one, kind, change) for one in value])
    if type(value) is dict:
        return {name: _each(one, kind, change) for name, one in value.items()}
    return value


def _filler(value: Any) -> Callable[[list[Any]], Any]:
    """From the tensors of all slots to the value with its views as tensors."""
    if type(value) is View:
        slot = value.place.slot
        return (lambda found: found[slot]) if value.whole else (lambda found: _at(found, value))
    kind = type(value)
    if kind is tuple or kind is list:
        parts = [_filler(one) for one in value]
        return lambda found: kind([part(found) for part in parts])
    if kind is dict:
        named = {name: _filler(one) for name, one in value.items()}
        return lambda found: {name: part(found) for name, part in named.items()}
    return lambda found: value


def _at(found: list[Any], leaf: View) -> Tensor:
    """A view as a tensor."""
    base: Tensor = found[leaf.place.slot]
    if leaf.whole:
        return base
    begin = base.storage_offset() + leaf.place.offset // leaf.dtype.itemsize
    return base.as_strided(leaf.shape, leaf.stride, begin)


def _operate(step: Operation, found: list[Any], where: list[int]) -> None:
    args, kwargs = step.fill(found)
    made = step.function(*args, **kwargs)
    for slot, tensor in zip(step.results, [made] if isinstance(made, Tensor) else made, strict=False):
        found[slot], where[slot] = tensor, tensor.data_ptr()


def _start(step: Launch, found: list[Any], where: list[int], stream: int) -> None:
    if step.compiled is None:
        step.kernel[step.grid](*_filler(step.arguments)(found), **step.options)
        return
    arguments = step.arguments.copy()
    for number, slot, offset in step.addresses:
        arguments[number] = where[slot] + offset
    try:
        step.run(*step.grid, stream, *step.head, *_hooks(step, stream, arguments), *arguments)
    except (
        TypeError,
        ValueError,
        AttributeError,
        IndexError,
        SystemError,
    ) as refused:  # of arguments; CUDA's are RuntimeErrors
        raise Unplayable(f"{type(refused).__name__}: {refused}") from refused


def _hooks(step: Launch, stream: int, arguments: list[Any]) -> tuple[Any, Any, Any]:
    """Metadata and hooks, as the last lines of triton's JITFunction.run give them; nothing where no profiler listens."""
    runtime = _knobs()
    enter, leave = runtime.launch_enter_hook, runtime.launch_exit_hook
    if not getattr(enter, "calls", enter) and not getattr(leave, "calls", leave):
        return None, None, None
    return step.compiled.launch_metadata(step.grid, stream, *arguments), enter, leave


def record(function: Callable[..., Any], arguments: Sequence[Any]) -> tuple[Any, Tape]:
    """What the call gives, and its tape.

    Raises:
        Unrecordable: the call cannot be played again; it has run up to there and is to be run anew.
    """
    # a tensor given twice gets two identities: the next call may give two
    plain = [value.detach() if isinstance(value, Tensor) else value for value in arguments]
    inputs = [value for value in plain if isinstance(value, Tensor)]
    before = getattr(_active, "recorder", None)
    recorder = _Recorder(inputs)
    _active.recorder = recorder
    try:
        with torch.no_grad(), recorder:
            result = function(*plain)
    finally:
        _active.recorder = before
    return result, _tape(recorder, inputs, _each(result, Tensor, recorder.view))


def _tape(recorder: _Recorder, inputs: list[Tensor], outputs: Any) -> Tape:
    seen_by_torch: set[int] = set()

    def see(view: View) -> None:
        seen_by_torch.add(view.place.slot)

    _each(outputs, View, see)
    last: dict[int, int] = {}
    first: dict[int, int] = {}
    for number, step in enumerate(recorder.steps):
        if type(step) is Operation or step.compiled is None:  # type: ignore[union-attr]
            _each(step.arguments, View, see)
        else:
            for _, slot, _ in step.addresses:  # type: ignore[union-attr]
                first.setdefault(slot, number)
                last[slot] = number
    spans = [(memory, first[slot], last[slot]) for slot, memory in recorder.memory.items()
             if slot not in seen_by_torch and slot in last]  # fmt: skip
    arena, workspaces = _arrange(spans)
    used = [memory for slot, memory in recorder.memory.items() if slot in seen_by_torch]
    return Tape(
        len(inputs), recorder.slots, inputs[0].device, recorder.steps, used, recorder.constants, _filler(outputs), arena, workspaces,
    )  # fmt: skip


def _arrange(spans: list[tuple[Memory, int, int]]) -> tuple[int, list[tuple[int, int]]]:
    """Workspaces in one allocation, largest first; two share bytes when the last launch of one is before the first of the other."""
    placed: list[tuple[int, int, int, int, int]] = []  # from, to, first, last, slot
    for memory, first, last in sorted(spans, key=lambda span: -span[0].bytes):
        size, begin = -(-memory.bytes // ALIGNED) * ALIGNED, 0
        for low, high, since, until, _ in sorted(placed):
            if since <= last and first <= until and low < begin + size and begin < high:
                begin = high
        placed.append((begin, begin + size, first, last, memory.slot))
    return max((high for _, high, *_ in placed), default=0), [(slot, begin) for begin, *_, slot in placed]
