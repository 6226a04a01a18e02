"""What runs the network: torch as it is, torch.compile, OpenVINO. All compute the same function.

`auto` times two windows of each engine that can run at the asked precision, keeps the fastest, and remembers the choice
per (network, window, device, versions), so that it is paid for once.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import json
import logging
import os
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from medseg.errors import ConfigError
from medseg.io.atomic import write_json

log = logging.getLogger(__name__)

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Building an engine takes seconds (OpenVINO: 5 to 50) to minutes (torch.compile: 20 to 200), so one is tried only where
# eager would take this long.
PAYS_AFTER_S = {"openvino": 40.0, "compile": 900.0}
# An engine whose logits differ from eager float32 by more than this share of their range is refused.
LARGEST_DEVIATION = {"fp32": 2e-3, "bf16": 0.1, "fp16": 0.05}


class EngineError(RuntimeError):
    """An engine cannot run this network here; the message says why."""


@dataclass
class Engine:
    """A network, ready to be called with windows.

    Args:
        name: `eager`, `compile` or `openvino`.
        precision: `fp32`, `bf16` or `fp16`.
        device: where it runs.
        run: (B, C, ...) float32 -> (B, K, ...) logits.
        seconds: time per window that was measured, 0 when it was not.
        reason: why this engine was chosen.
    """

    name: str
    precision: str
    device: torch.device
    run: Callable[[torch.Tensor], torch.Tensor]
    seconds: float = 0.0
    reason: str = ""
    refused: dict[str, str] = field(default_factory=dict)

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        return self.run(windows)

    def describe(self) -> dict[str, Any]:
        """JSON-ready facts for the record."""
        return {"name": self.name, "precision": self.precision, "reason": self.reason, "refused": self.refused}


def _eager(network: torch.nn.Module, example: torch.Tensor, precision: str) -> Callable[[torch.Tensor], torch.Tensor]:
    network = network.to(example.device).eval()
    if precision == "fp32":
        return lambda windows: _single(network(windows))
    dtype = PRECISIONS[precision]

    def run(windows: torch.Tensor) -> torch.Tensor:
        with torch.autocast(windows.device.type, dtype=dtype):
            return _single(network(windows))

    return run


def _compile(network: torch.nn.Module, example: torch.Tensor, precision: str) -> Callable[[torch.Tensor], torch.Tensor]:
    network = copy.deepcopy(network).to(example.device).eval()  # the eager engine keeps its own layout
    layout = torch.channels_last_3d if example.ndim == 5 else torch.channels_last
    # channels-last pays on a CPU only together with 16 bits
    last = precision != "fp32"
    if last:
        for parameter in network.parameters():
            if parameter.ndim == example.ndim:
                parameter.data = parameter.data.contiguous(memory_format=layout)
    compiled = torch.compile(network, dynamic=False)

    def run(windows: torch.Tensor) -> torch.Tensor:
        windows = windows.contiguous(memory_format=layout) if last else windows
        if precision == "fp32":
            return _single(compiled(windows))
        with torch.autocast(windows.device.type, dtype=PRECISIONS[precision]):
            return _single(compiled(windows))

    return run


# OpenVINO 2026.4's fusing of element-wise operations ends the process (SIGSEGV) while it compiles a scan in fp32
OPENVINO_SETTINGS = {"SNIPPETS_MODE": "DISABLE"}


def import_openvino() -> Any:
    """The package openvino, kept from reporting its import to its makers: it does so unasked unless this part is missing.

    Raises:
        EngineError: it is not installed.
    """
    if importlib.util.find_spec("openvino") is None:
        raise EngineError('the package openvino is not installed: pip install "medseg[openvino]"')
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # its own stub takes the place
    return importlib.import_module("openvino")


def _openvino(
    network: torch.nn.Module, example: torch.Tensor, precision: str
) -> Callable[[torch.Tensor], torch.Tensor]:
    if example.device.type != "cpu":
        raise EngineError("OpenVINO is used on CPUs only")
    openvino = import_openvino()
    model = _converted(openvino, network, example)
    hint = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}[precision]
    compiled = openvino.Core().compile_model(
        model,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": hint,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            **OPENVINO_SETTINGS,
        },
    )
    request = compiled.create_infer_request()

    def run(windows: torch.Tensor) -> torch.Tensor:
        result = request.infer([windows.contiguous().numpy()], share_inputs=True, share_outputs=False)
        return torch.from_numpy(result[0])

    return run


def _converted(openvino: Any, network: torch.nn.Module, example: torch.Tensor) -> Any:
    """The network in OpenVINO's form, kept in the cache folder under a hash of its weights: converting takes seconds."""
    digest = hashlib.sha256(repr((type(network).__name__, tuple(example.shape), _version("openvino"))).encode())
    digest.update(repr(network).encode())
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    path = _cache_folder() / "openvino" / f"{digest.hexdigest()[:32]}.xml"
    core = openvino.Core()
    if path.is_file() and path.with_suffix(".bin").is_file():
        try:
            return core.read_model(path)
        except RuntimeError as error:
            log.warning("%s cannot be read (%s); the network is converted again", path, str(error).splitlines()[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns about every shape that becomes a constant, which is wanted here
        model = openvino.convert_model(network.cpu().eval(), example_input=example)
    model.reshape(list(example.shape))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            openvino.save_model(model, Path(folder) / path.name, compress_to_fp16=False)
            for suffix in (".bin", ".xml"):
                os.replace((Path(folder) / path.name).with_suffix(suffix), path.with_suffix(suffix))
    except OSError as error:
        log.debug("the converted network cannot be kept: %s", error)
    return model


# best guess first; the order decides only where times are equal
ENGINES = {"eager": _eager, "openvino": _openvino, "compile": _compile}


def _single(output: Any) -> torch.Tensor:
    """The full-resolution logits of a network that returns several."""
    while not isinstance(output, torch.Tensor):
        output = next(iter(output.values())) if isinstance(output, dict) else output[0]
    return output


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
    key = _key(network, example, precision)
    remembered = _remembered().get(key)
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
    reference = _single(network(example)).float()
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
    _remember(key, best.name)
    return best


def _deviation(logits: torch.Tensor, reference: torch.Tensor) -> float:
    spread = float(reference.max() - reference.min())
    return float((logits.float() - reference).abs().max()) / max(spread, 1e-6)


def _key(network: torch.nn.Module, example: torch.Tensor, precision: str) -> str:
    """A hash of all that the choice depends on."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
    device = torch.cuda.get_device_name(example.device) if example.device.type == "cuda" else _cpu_name()
    versions = [torch.__version__, _version("openvino")]
    settings = [type(network).__name__, tuple(example.shape), precision, device, torch.get_num_threads(), *versions]
    digest.update(repr(settings).encode())
    return digest.hexdigest()[:24]


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        return next((line for line in lines if line.startswith(("model name", "flags"))), platform.processor())
    except OSError:
        return platform.processor() + platform.machine()


def _cache_folder() -> Path:
    base = os.environ.get("MEDSEG_CACHE")
    if base:
        return Path(base)
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(cache) / "medseg"


def _memory_file() -> Path:
    return _cache_folder() / "engines.json"


def _remembered() -> dict[str, Any]:
    try:
        values = json.loads(_memory_file().read_text(encoding="utf-8"))
        return values if isinstance(values, dict) else {}
    except (OSError, ValueError):
        return {}


def _remember(key: str, name: str) -> None:
    try:
        write_json(_memory_file(), {**_remembered(), key: name})
    except (OSError, ValueError) as error:  # a read-only cache costs only the timing next time
        log.debug("the choice of engine cannot be remembered: %s", error)
