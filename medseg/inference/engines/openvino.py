"""OpenVINO: the network converted once per set of weights and kept in the cache folder."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .engine import EngineError
from .memory import cache_folder, package_version

log = logging.getLogger(__name__)

# OpenVINO 2026.4's fusing of element-wise operations ends the process (SIGSEGV) while it compiles a scan in fp32
OPENVINO_SETTINGS = {"SNIPPETS_MODE": "DISABLE"}


def import_openvino() -> Any:
    """The package openvino; `medseg.telemetry` keeps it from reporting its import to its makers.

    Raises:
        EngineError: it is not installed.
    """
    if importlib.util.find_spec("openvino") is None:
        raise EngineError('the package openvino is not installed: pip install "medseg[openvino]"')
    return importlib.import_module("openvino")


def run_openvino(
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
    digest = hashlib.sha256(repr((type(network).__name__, tuple(example.shape), package_version("openvino"))).encode())
    digest.update(repr(network).encode())
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    path = cache_folder() / "openvino" / f"{digest.hexdigest()[:32]}.xml"
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
