"""Every public op refuses tensors of a wrong device, dtype, rank or size by ValueError, before a kernel starts; any strides do.

One good call per op; each of its tensors is spoilt in each way. A refusal names the argument and what was found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import medseg_kernels as kernels

Call = tuple[Callable[..., Any], dict[str, Any]]


def _r(*shape: int) -> Tensor:
    return torch.rand(shape) + 0.1


def _recurrences() -> dict[str, Call]:
    row, gate = (2, 3, 2, 2, 2, 4), (2, 3, 2, 2, 2)
    qkv = {name: _r(*row) for name in "qkv"}
    state = _r(2, 2, 4, 4)
    x, step = _r(2, 5, 4, 3), _r(2, 5, 4)
    return {
        "gated_linear_recurrence": (
            kernels.gated_linear_recurrence, {**qkv, "g": -_r(*gate), "beta": _r(*gate), "initial_state": state}),
        "retention": (kernels.retention, {**qkv, "log_decay": -_r(2)}),
        "gla": (kernels.gla, {**qkv, "g": -_r(*row)}),
        "delta_rule": (kernels.delta_rule, {**qkv, "beta": _r(*gate)}),
        "gated_delta_rule": (kernels.gated_delta_rule, {**qkv, "g": -_r(*gate), "beta": _r(*gate)}),
        "mlstm": (kernels.mlstm, {**qkv, "i": _r(*gate), "f": _r(*gate)}),
        "ssd": (kernels.ssd, {"x": x, "dt": step, "A": -_r(4), "B": _r(2, 5, 2, 3), "C": _r(2, 5, 2, 3), "D": _r(4)}),
    }  # fmt: skip


def _scans() -> dict[str, Call]:
    volume, orders = (2, 3, 2, 2, 4), ["raster", "snake"]
    scan = {
        "u": _r(*volume), "delta": _r(*volume), "A": -_r(4, 3), "B": _r(2, 3, 2, 2, 3), "C": _r(2, 3, 2, 2, 3), "D": _r(4),
        "z": _r(*volume), "delta_bias": _r(4), "initial_state": _r(2, 2, 4, 3), "step_write": _r(7, 3),
        "merge": "weights", "merge_weights": _r(2), "traversals": orders,
    }  # fmt: skip
    inner = {
        "u": _r(*volume), "z": _r(*volume), "taps": _r(2, 4, 3), "taps_bias": _r(2, 4), "project": _r(2, 8, 4),
        "expand": _r(2, 4, 2), "A": -_r(2, 4, 3), "D": _r(2, 4), "delta_bias": _r(2, 4), "traversals": orders,
    }  # fmt: skip
    line = {name: _r(2, 4, 5) for name in ("u", "delta", "z")}
    line |= {"A": -_r(4, 3), "B": _r(2, 3, 5), "C": _r(2, 3, 5), "D": _r(4), "delta_bias": _r(4)}
    conv = {"x": _r(*volume), "weight": _r(2, 4, 3), "bias": _r(2, 4), "traversals": orders}
    return {
        "selective_scan": (kernels.selective_scan, scan),
        "selective_scan_fn": (kernels.selective_scan_fn, line),
        "convolved_scan": (kernels.convolved_scan, inner),
        "convolved_scan on the grid": (
            kernels.convolved_scan, {**inner, "mode": "grid", "taps": _r(4, 3, 1, 2), "taps_bias": _r(4)}),
        "short_conv": (kernels.short_conv, conv),
        "short_conv on the grid": (
            kernels.short_conv, {"x": _r(*volume), "weight": _r(4, 3, 3, 3), "bias": _r(4), "mode": "grid"}),
    }  # fmt: skip


def _windows() -> dict[str, Call]:
    common = {"qkv": _r(2, 4, 4, 2, 3, 2, 4), "window_size": [2, 2, 2], "bias_table": _r(27, 2)}
    common |= {"pad_mode": "input", "pad_qkv": _r(3, 2, 4), "sample_qkv": _r(2, 3, 2, 4)}
    apart = {"qkv": _r(2, 4, 4, 2, 2, 4), "kv": _r(2, 4, 4, 2, 2, 2, 4), "window_size": 2, "bias": _r(2, 8, 8)}
    query = {"qkv": _r(2, 4, 4, 2, 2, 2, 4), "global_query": _r(2, 2, 2, 2, 2, 4), "window_size": 2}
    return {
        "window_attention": (kernels.window_attention, common),
        "window_attention of kv": (kernels.window_attention, apart),
        "window_attention of a global query": (kernels.window_attention, query),
        "window_attention_with_carriers": (
            kernels.window_attention_with_carriers, {**common, "carriers": _r(2, 4, 1, 3, 2, 4)}),
    }  # fmt: skip


def _stitches() -> dict[str, Call]:
    table = kernels.axis_table(4, 6)
    slab = {"values": _r(3, 4, 4, 4), "weight": _r(4, 4, 4)}
    tables = dict.fromkeys("xyz", table)
    window = {"window": _r(3, 2, 2, 2), "importance": _r(2, 2, 2), "offset": _r(2, 2, 2), "start": [1, 0, 2]}
    channel = _r(3, 4, 5)
    patch = {"image": _r(1, 3, 4, 5), "label": torch.ones(3, 4, 5, dtype=torch.uint8)}
    return {
        "stitch_window": (kernels.stitch_window, {**slab, **window}),
        "stitch_labels": (kernels.stitch_labels, {**slab, **tables}),
        "stitch_logits": (kernels.stitch_logits, {**slab, **tables}),
        "resample_argmax": (kernels.resample_argmax, {"logits": _r(3, 4, 4, 4), "shape": [5, 6, 7]}),
        "warp_patch": (kernels.warp_patch, {**patch, "mapping": torch.eye(4)[:3].tolist(), "size": [2, 2, 2]}),
        "change_gamma": (kernels.change_gamma, {"channel": channel, "gamma": 1.2}),
        "stretch_contrast": (kernels.stretch_contrast, {"channel": channel, "factor": 1.2}),
        "symmetric_filter": (kernels.symmetric_filter, {"channel": channel, "weights": [0.5, 0.25]}),
    }


def _calls() -> dict[str, Call]:
    torch.manual_seed(0)
    return {**_recurrences(), **_scans(), **_windows(), **_stitches()}


SPOILT: dict[str, Callable[[Tensor], Tensor]] = {
    "on another device": lambda x: x.to("meta"),
    "complex": lambda x: x.to(torch.complex64),
    "of integers": lambda x: x.to(torch.int64),
    "of three more axes": lambda x: x[None, None, None],
    "with a longer last axis": lambda x: torch.cat([x, x], -1),
    "with a longer first axis": lambda x: torch.cat([x, x, x], 0),
    "empty": lambda x: x[..., :0],
}
ANY_LENGTH = {  # what the length of an axis means nothing to anybody else
    ("with a longer last axis", "weight"), ("with a longer last axis", "taps"), ("with a longer last axis", "logits"),
    ("with a longer first axis", "logits"), ("with a longer first axis", "x"), ("with a longer first axis", "values"),
    ("with a longer first axis", "image"), ("with a longer last axis", "v"),
}  # fmt: skip


CONTIGUOUS = {  # changed in place or as large as a volume: never copied in silence
    "stitch_window": ("values", "weight"), "stitch_labels": ("values",), "stitch_logits": ("values",),
}  # fmt: skip


def _cases() -> Iterator[Any]:
    for op, (_, given) in _calls().items():
        tensors = [name for name, value in given.items() if isinstance(value, Tensor)]
        for name in tensors:
            for way in SPOILT:
                alone = len(tensors) == 1 and (way == "on another device" or name == "channel")
                label = name == "label" and way == "of integers"
                longer = (way, name) in ANY_LENGTH or (way, op, name) == ("with a longer last axis", "ssd", "x")
                if not longer and not (alone and way not in ("of integers", "complex", "empty")) and not label:
                    yield pytest.param(op, name, way, id=f"{op}-{name}-{way}")


@pytest.fixture(scope="module")
def calls() -> dict[str, Call]:
    return _calls()


@pytest.mark.parametrize(("op", "name", "way"), _cases())
def test_a_spoilt_tensor_is_refused_by_its_name(calls: dict[str, Call], op: str, name: str, way: str) -> None:
    function, given = calls[op]
    spoilt = SPOILT[way](given[name])
    with pytest.raises(ValueError, match=r"(?s).+") as refused:
        function(**{**given, name: spoilt})
    text = str(refused.value)
    first = next(iter(given))
    others = "|".join(map(re.escape, given)) if name == first or way != "on another device" else re.escape(name)
    assert re.search(rf"\b({others})\b", text), text
    shown = {"on another device": "meta", "complex": "complex64", "of integers": "int64"}.get(way)
    assert shown is None or shown in text, text


@pytest.mark.parametrize("op", _calls())
def test_any_strides_give_the_same_or_are_refused(calls: dict[str, Call], op: str) -> None:
    function, given = calls[op]
    for name, value in given.items():
        if not isinstance(value, Tensor):
            continue
        apart = torch.stack([value, value], -1)[..., 0]  # no two neighbours side by side
        assert value.numel() == 1 or not apart.is_contiguous()
        expected = _outcome(function, given)
        if name in CONTIGUOUS.get(op, ()):
            with pytest.raises(ValueError, match=rf"\b{name}\b.*contiguous"):
                function(**{**given, name: apart})
            continue
        found = _outcome(function, {**given, name: apart})
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=f"{op}: {name}")


def _outcome(function: Callable[..., Any], given: dict[str, Any]) -> list[Tensor]:
    """What a call gives, and what it leaves in its arguments."""
    copies = {name: _alike(value) if isinstance(value, Tensor) else value for name, value in given.items()}
    result = function(**copies)
    return [*_leaves(result), *[value for value in copies.values() if isinstance(value, Tensor)]]


def _alike(value: Tensor) -> Tensor:
    """A copy with the same strides."""
    made = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype)
    return made.copy_(value)


def _leaves(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [leaf for one in value or () for leaf in _leaves(one)]
