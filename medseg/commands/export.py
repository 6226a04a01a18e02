"""`medseg bundle export`: the network for other software, compared with eager before the file gets its name."""

from __future__ import annotations

import dataclasses
import json
import logging
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.bundle.leak_scan import Scan
from medseg.bundle.load import Bundle, Trust, load_bundle
from medseg.bundle.secrets import scrub, secrets_of
from medseg.errors import BundleError, ConfigError
from medseg.io.atomic import atomic_path
from medseg.transforms.postprocessing import describe

if TYPE_CHECKING:
    import torch

    Runner = Callable[[torch.Tensor], torch.Tensor]

SUFFIXES = {"torchscript": ".ts", "pt2": ".pt2", "onnx": ".onnx", "openvino": ".xml"}
PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino", "onnx", "onnxscript")}
CARRY_CONFIG = ("torchscript", "pt2")  # inference.json lies inside the file
LOGIT_TOLERANCE = 1e-4  # fp32; relative to the largest logit where that is beyond 1
LABEL_SHARE = 0.999


@dataclass(frozen=True)
class Exported:
    """A written file and how close it is to eager."""

    path: Path
    format: str
    megabytes: float
    largest_difference: float
    equal_labels: float
    checked_on: str

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "path": str(self.path)}


@contextmanager
def _quiet() -> Iterator[None]:
    """torch warns at length that TorchScript is old and that exporters are new; the files are checked below."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _extra_files(bundle: Bundle) -> dict[str, bytes]:
    """What MONAI's tools expect inside a .ts: the configuration, as `ckpt_export` puts it there."""
    return {"inference.json": json.dumps(_clean(bundle.config.raw, bundle)).encode()}


def _clean(content: object, bundle: Bundle) -> Any:
    """JSON of the bundle without the places of this machine and the names of its cases."""
    return scrub(json.loads(json.dumps(content, default=str)), secrets_of(bundle.layout).table)


def _metadata(bundle: Bundle) -> dict[str, Any]:
    return _clean({key: value for key, value in bundle.metadata.items() if not key.startswith("_")}, bundle)  # type: ignore[no-any-return]


def _without_debug_files(path: Path) -> None:
    """Take the source lines that TorchScript keeps for its error messages out of a .ts: they name folders of this machine."""
    whole = path.with_name(f"{path.stem}_whole{path.suffix}")
    path.replace(whole)
    try:
        with zipfile.ZipFile(whole) as before, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as after:
            root = before.namelist()[0].split("/")[0]
            for entry in before.infolist():
                if not entry.filename.endswith(".debug_pkl"):
                    name = f"model/{entry.filename.removeprefix(root + '/')}"
                    after.writestr(zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0)), before.read(entry))
    finally:
        whole.unlink(missing_ok=True)


def _forget_sources(graph_module: Any) -> None:
    """Take out of an exported graph, and of the graphs inside it, which line of which file each step came from."""
    for module in graph_module.modules():
        graph = getattr(module, "graph", None)
        for node in graph.nodes if graph is not None else ():
            for key in ("stack_trace", "source_fn_stack", "from_node"):
                node.meta.pop(key, None)


def _to_torchscript(network: torch.nn.Module, example: torch.Tensor, path: Path, bundle: Bundle) -> Runner:
    import torch
    from monai.data import save_net_with_metadata

    scripted = torch.jit.script(network)
    save_net_with_metadata(scripted, str(path), meta_values=_metadata(bundle), more_extra_files=_extra_files(bundle))
    _without_debug_files(path)
    return torch.jit.load(str(path))


def _to_pt2(network: torch.nn.Module, example: torch.Tensor, path: Path, bundle: Bundle) -> Runner:
    import torch

    program = torch.export.export(network, (example,))
    _forget_sources(program.graph_module)
    carried = {name: content.decode() for name, content in _extra_files(bundle).items()}
    torch.export.save(program, str(path), extra_files={"metadata.json": json.dumps(_metadata(bundle)), **carried})
    return torch.export.load(str(path)).module()


def write_onnx(network: Any, example: torch.Tensor, path: Path) -> None:
    """An .onnx file of a network, or of its program that torch.export has recorded already."""
    import torch

    torch.onnx.export(
        network,
        (example,),
        str(path),
        input_names=["image"],
        output_names=["pred"],
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    _forget_onnx_sources(path)


def _forget_onnx_sources(path: Path) -> None:
    """The exporter notes the source line of every node; take these notes out."""
    import onnx

    model = onnx.load(str(path))
    for graph in (model.graph, *model.functions):
        for node in graph.node:
            del node.metadata_props[:]
            node.doc_string = ""
    del model.metadata_props[:]
    onnx.save(model, str(path))


def _to_onnx(network: torch.nn.Module, example: torch.Tensor, path: Path, bundle: Bundle) -> Runner:
    write_onnx(network, example, path)
    return run_onnx(path)


def run_onnx(path: Path) -> Runner:
    """What ONNX Runtime makes of a file on the CPU."""
    import numpy as np
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(image: torch.Tensor) -> torch.Tensor:
        found = session.run(["pred"], {"image": image.as_subclass(torch.Tensor).numpy()})[0]
        return torch.from_numpy(np.asarray(found))

    return run


def _to_openvino(network: torch.nn.Module, example: torch.Tensor, path: Path, bundle: Bundle) -> Runner:
    onnx_path = path.with_suffix(".onnx")
    try:
        write_onnx(network, example, onnx_path)
        return openvino_of(onnx_path, path)
    finally:
        onnx_path.unlink(missing_ok=True)


def openvino_of(onnx_path: Path, path: Path) -> Runner:
    """OpenVINO's .xml and .bin of an .onnx file, and what they compute on the CPU."""
    import torch

    from medseg.inference.engines.openvino import OPENVINO_SETTINGS, import_openvino

    openvino = import_openvino()
    openvino.save_model(openvino.convert_model(str(onnx_path)), str(path), compress_to_fp16=False)
    # fp32 on purpose: on CPUs with matrix units OpenVINO would compute in bf16 by itself
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32", **OPENVINO_SETTINGS})

    def run(image: torch.Tensor) -> torch.Tensor:
        found = compiled({0: image.as_subclass(torch.Tensor).numpy()})[0]
        return torch.from_numpy(found.copy())

    return run


WRITERS: dict[str, Callable[[Any, Any, Path, Bundle], Any]] = {
    "torchscript": _to_torchscript,
    "pt2": _to_pt2,
    "onnx": _to_onnx,
    "openvino": _to_openvino,
}


def _needs(format_name: str) -> None:
    import importlib.util

    missing = [name for name in PACKAGES.get(format_name, ()) if importlib.util.find_spec(name) is None]
    if missing:
        extra = "openvino" if "openvino" in missing else "export"
        raise ConfigError(f"export to {format_name} needs {', '.join(missing)}: pip install 'medseg[{extra}]'")


def _check_volume(bundle: Bundle, image: Path | None) -> tuple[torch.Tensor, str]:
    """(1, C, X, Y, Z) on the network's grid: a real volume where one is given, else noise larger than a window."""
    import torch

    if image is None:
        shape = [extent + extent // 2 for extent in bundle.roi_size]
        generator = torch.Generator().manual_seed(0)
        return torch.randn(1, len(bundle.channels), *shape, generator=generator), "noise; give a volume with --input"
    from medseg.io import read_image

    volume = read_image(image)
    prepared = bundle.preprocessing.apply(volume.array, volume.affine)
    return torch.from_numpy(prepared.image)[None], image.name


def _compare(bundle: Bundle, network: torch.nn.Module, run: Runner, volume: torch.Tensor) -> tuple[float, float]:
    """Largest difference of blended logits (relative to the largest logit beyond 1) and share of equal labels."""
    import torch

    from medseg.inference import SlidingWindowInferer

    inferer: Any = SlidingWindowInferer(bundle.roi_size, sw_batch_size=1, overlap=0.25, mode="gaussian")
    with torch.no_grad():
        expected = inferer(volume, network)
        found = inferer(volume, run)
    scale = max(1.0, float(expected.abs().max()))
    difference = float((expected - found).abs().max()) / scale
    equal = float((expected.argmax(1) == found.argmax(1)).float().mean())
    return difference, equal


def export_bundle(
    path_or_name: str | Path,
    to: str,
    *,
    output: Path | None = None,
    image: Path | None = None,
    trust: Trust = False,
) -> Exported:
    """Write the network in another format and hold it against eager.

    The exported network takes one window, (1, C, *roi_size); a `.ts` takes any size. Sliding the window stays with the
    software that uses it.

    Args:
        path_or_name: the bundle.
        to: torchscript, pt2, onnx or openvino.
        output: the file; by default models/model.SUFFIX in the bundle.
        image: a real volume for the comparison.
        trust: see `load_bundle`.

    Raises:
        ConfigError: unknown format, or its packages are not installed.
        BundleError: the network cannot be exported, or the export differs from eager; no file is left then.
    """
    if to not in WRITERS:
        raise ConfigError(f"format {to!r}: expected one of {', '.join(WRITERS)}")
    _needs(to)
    import torch

    bundle = load_bundle(path_or_name, trust=trust)
    _refuse_loss(bundle, to)
    network = bundle.network().eval()
    target = output or bundle.layout.weights.with_suffix(SUFFIXES[to])
    example = torch.rand(1, len(bundle.channels), *bundle.roi_size)
    volume, checked_on = _check_volume(bundle, image)
    with _with_companion(target) as temporary, _quiet(), torch.no_grad():
        try:
            run = WRITERS[to](network, example, temporary, bundle)
        except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
            raise BundleError(
                f"{bundle.name}: cannot be exported to {to}: {str(error).strip().splitlines()[0]}"
            ) from error
        difference, equal = _compare(bundle, network, run, volume)
        if difference > LOGIT_TOLERANCE or equal < LABEL_SHARE:
            raise BundleError(
                f"{bundle.name}: the {to} file differs from eager on {checked_on}: {difference:.1e} in logits, "
                f"{100 * equal:.2f} % of labels equal; it was not kept"
            )
        scan = Scan(secrets_of(bundle.layout))
        for written in (temporary, temporary.with_suffix(".bin")):
            if written.is_file():
                scan.refuse(target.with_suffix(written.suffix).name, written.read_bytes(), "it was not kept")
    return Exported(target, to, target.stat().st_size / 1e6, difference, equal, checked_on)


def _refuse_loss(bundle: Bundle, to: str) -> None:
    """A format that holds a network only would lose the bundle's post-processing without a word.

    Raises:
        BundleError: naming the steps.
    """
    if to in CARRY_CONFIG or "preprocessing_def" not in bundle.config:
        return
    steps = [f"{describe(step)} for {step.get('labels')}" for step in bundle.label_settings.postprocessing]
    if steps:
        raise BundleError(
            f"{bundle.name}: a {to} file holds the network only, and the post-processing would be lost ({'; '.join(steps)}); "
            f"export to {' or '.join(CARRY_CONFIG)}, which carry inference.json, or take PostprocessLabeld out of it"
        )


@contextmanager
def _with_companion(target: Path) -> Iterator[Path]:
    """As `atomic_path`, also for the .bin that OpenVINO writes beside its .xml."""
    with atomic_path(target) as temporary:
        companion = temporary.with_suffix(".bin")
        try:
            yield temporary
            if companion.is_file():
                companion.replace(target.with_suffix(".bin"))
        finally:
            companion.unlink(missing_ok=True)
