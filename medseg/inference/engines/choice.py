"""What runs the network: torch as it is, torch.compile, OpenVINO. All compute the same function.

`auto` times two windows of each engine that can run at the asked precision, keeps the fastest, and remembers the choice
per (network, window, device, versions), so that it is paid for once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import torch

from medseg.errors import ConfigError

from .engine import PRECISIONS, Engine, EngineError, single_output
from .memory import choice_key, remember_choice, remembered_choices
from .openvino import run_openvino
from .torch_engines import compiled_by_torch, eager

log = logging.getLogger(__name__)

# Building an engine takes seconds (OpenVINO: 5 to 50) to minutes (torch.compile: 20 to 200), so one is tried only where
# eager would take this long.
PAYS_AFTER_S = {"openvino": 40.0, "compile": 900.0}
# An engine whose logits differ from eager float32 by more than this share of their range is refused.
LARGEST_DEVIATION = {"fp32": 2e-3, "bf16": 0.1, "fp16": 0.05}


# best guess first; the order decides only where times are equal
ENGINES = {"eager": eager, "openvino": run_openvino, "compile": compiled_by_torch}


def default_precision(device: torch.device) -> str:
    """fp32 on a CPU; on a GPU bf16 where it has it, else fp16."""
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported() else "fp16"


def refuse_precision(precision: str, device: torch.device) -> str | None:
    """None when the device computes in this precision without being slower than in fp32, else the reason."""
    if precision not in PRECISIONS:
        raise ConfigError(f"precision {precision!r}: expected one of {', '.join(PRECISIONS)}")
    if precision == "fp32" or device.type == "cuda":
        return None
    if precision == "fp16":
        return "CPUs compute fp16 by converting to fp32; use bf16 or fp32"
    if device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "this CPU has no bf16 arithmetic (avx512_bf16 or amx); use fp32"
    return None


def build_engine(network: torch.nn.Module, example: torch.Tensor, *, name: str, precision: str) -> Engine:
    """One engine by name, tried on an example.

    Args:
        network: logits from windows.
        example: (1, C, ...) a window on the device to use.
        name: one of `ENGINES`.
        precision: one of `PRECISIONS`.

    Raises:
        ConfigError: unknown name or precision.
        EngineError: it cannot run this network here.
    """
    if name not in ENGINES:
        raise ConfigError(f"engine {name!r}: expected auto or one of {', '.join(ENGINES)}")
    if (reason := refuse_precision(precision, example.device)) is not None:
        raise ConfigError(f"precision {precision}: {reason}")
    try:
        run = ENGINES[name](network, example, precision)
        if name != "eager":
            run(example)
    except (EngineError, ConfigError):
        raise
    except Exception as error:
        # a converter may raise anything; the cause is kept in one line
        raise EngineError(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
    return Engine(name, precision, example.device, run)


def choose_engine(
    network: torch.nn.Module,
    example: torch.Tensor,
    *,
    name: str = "auto",
    precision: str | None = None,
    windows: int = 1,
) -> Engine:
    """The engine asked for, or the fastest of those that can run and agree with eager float32.

    Args:
        network: logits from windows.
        example: (1, C, ...) a window on the device to use.
        name: an engine, or `auto`.
        precision: None for the device's default.
        windows: how many windows are to come in all cases; with few of them no other engine is worth building.
    """
    precision = precision or default_precision(example.device)
    with torch.inference_mode():
        if name != "auto":
            try:
                engine = build_engine(network, example, name=name, precision=precision)
            except EngineError as error:
                raise ConfigError(f"engine {name} cannot run this network: {error}") from error
            engine.reason = "asked for"
            return engine
        return _fastest(network, example, precision, windows)


def _seconds(run: Callable[[torch.Tensor], torch.Tensor], example: torch.Tensor, repeats: int = 2) -> float:
    """The shorter of two timed windows."""
    best = float("inf")
    for _ in range(repeats):
        if example.device.type == "cuda":
            torch.cuda.synchronize(example.device)
        begin = time.perf_counter()
        run(example)
        if example.device.type == "cuda":
            torch.cuda.synchronize(example.device)
        best = min(best, time.perf_counter() - begin)
    return best


def _fastest(network: torch.nn.Module, example: torch.Tensor, precision: str, windows: int) -> Engine:
    key = choice_key(network, example, precision)
    remembered = remembered_choices().get(key)
    if remembered in ENGINES and windows >= 4:
        try:
            engine = build_engine(network, example, name=str(remembered), precision=precision)
            engine.reason = "fastest when it was timed earlier on this machine"
            return engine
        except EngineError as error:
            log.info("engine %s ran here earlier and does not now (%s)", remembered, error)
    eager = build_engine(network, example, name="eager", precision=precision)
    if windows < 4:
        eager.reason = f"{windows} windows: nothing else would pay"
        return eager
    reference = single_output(network(example)).float()
    eager.seconds = _seconds(eager, example)
    best, refused = eager, {}
    for name in ENGINES:
        if name == "eager":
            continue
        if eager.seconds * windows < PAYS_AFTER_S[name]:
            refused[name] = f"building it would not pay for {eager.seconds * windows:.1f} s of eager"
            continue
        try:
            candidate = build_engine(network, example, name=name, precision=precision)
            if (deviation := _deviation(candidate(example), reference)) > LARGEST_DEVIATION[precision]:
                raise EngineError(f"its logits differ from eager fp32 by {deviation:.1%} of their range")
        except EngineError as error:
            refused[name] = str(error)
            continue
        candidate.seconds = _seconds(candidate, example)
        best = candidate if candidate.seconds < best.seconds else best
    best.refused = refused
    best.reason = f"fastest of two timed windows: {best.seconds:.3f} s, eager {eager.seconds:.3f} s"
    remember_choice(key, best.name)
    return best


def _deviation(logits: torch.Tensor, reference: torch.Tensor) -> float:
    spread = float(reference.max() - reference.min())
    return float((logits.float() - reference).abs().max()) / max(spread, 1e-6)
