"""Where the modules and names of 0.1 are now, for bundle files and code that were written for it.

One table for two readers: whoever opens a bundle asks `current` for a `_target_`, and `import` of an old module is answered by
a finder that `medseg/__init__.py` installs. Nothing new may be written with an old name.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

# old module -> new module
MODULES = {
    "medseg.bundle.agreement": "medseg.bundle.checks.agreement",
    "medseg.bundle.archive": "medseg.bundle.opening.archive",
    "medseg.bundle.averaging": "medseg.bundle.predictor",
    "medseg.bundle.components": "medseg.bundle.checks.components",
    "medseg.bundle.cross_validate": "medseg.commands.cv",
    "medseg.bundle.demo": "medseg.commands.demo",
    "medseg.bundle.export": "medseg.commands.export",
    "medseg.bundle.figures": "medseg.bundle.card",
    "medseg.bundle.fit": "medseg.commands.fit",
    "medseg.bundle.grammar": "medseg.bundle.opening.grammar",
    "medseg.bundle.grammar_calls": "medseg.bundle.opening.stand_ins",
    "medseg.bundle.grammar_words": "medseg.bundle.opening.forms",
    "medseg.bundle.import_nnunet": "medseg.commands.import_nnunet",
    "medseg.bundle.inference_config": "medseg.bundle.configs.inference",
    "medseg.bundle.inputs": "medseg.bundle.configs.inputs",
    "medseg.bundle.install": "medseg.commands.install",
    "medseg.bundle.interpreter": "medseg.bundle.opening.expressions",
    "medseg.bundle.layout": "medseg.layout",
    "medseg.bundle.metadata": "medseg.bundle.configs.metadata",
    "medseg.bundle.model_card": "medseg.bundle.card",
    "medseg.bundle.pack": "medseg.commands.pack",
    "medseg.bundle.plan": "medseg.commands.plan",
    "medseg.bundle.predict": "medseg.commands.predict",
    "medseg.bundle.properties": "medseg.bundle.checks.properties",
    "medseg.bundle.record_choice": "medseg.commands.cv_record",
    "medseg.bundle.register": "medseg.commands.register",
    "medseg.bundle.safe": "medseg.bundle.opening.parser",
    "medseg.bundle.stages": "medseg.commands.fit_two_stages",
    "medseg.bundle.targets": "medseg.bundle.opening.targets",
    "medseg.bundle.train_config": "medseg.bundle.configs.train",
    "medseg.bundle.trained_network": "medseg.commands.fit_record",
    "medseg.bundle.trust": "medseg.bundle.opening.trust",
    "medseg.bundle.verify": "medseg.bundle.checks.verify",
    "medseg.evaluation.figures": "medseg.evaluation.report.charts",
    "medseg.inference.batch": "medseg.cases.batch",
    "medseg.inference.ensemble": "medseg.inference.windows.ensemble",
    "medseg.inference.half_slab": "medseg.inference.windows.half_slab",
    "medseg.inference.heap": "medseg.inference.windows.heap",
    "medseg.inference.measures": "medseg.cases.measures",
    "medseg.inference.memory": "medseg.inference.windows.memory",
    "medseg.inference.mirroring": "medseg.inference.windows.mirroring",
    "medseg.inference.part": "medseg.inference.windows.part",
    "medseg.inference.preview": "medseg.cases.preview",
    "medseg.inference.record": "medseg.cases.record",
    "medseg.inference.scope": "medseg.cases.scope",
    "medseg.inference.slab": "medseg.inference.windows.slab",
    "medseg.inference.sliding_window": "medseg.inference.windows.sliding_window",
    "medseg.io.buffers": "medseg.io.formats.buffers",
    "medseg.io.dicom": "medseg.io.formats.dicom",
    "medseg.io.dicom_seg": "medseg.io.formats.dicom_seg",
    "medseg.io.dicom_slices": "medseg.io.formats.dicom_slices",
    "medseg.io.metaimage": "medseg.io.formats.metaimage",
    "medseg.io.mgh": "medseg.io.formats.mgh",
    "medseg.io.nifti": "medseg.io.formats.nifti",
    "medseg.io.nifti_fields": "medseg.io.formats.nifti_fields",
    "medseg.io.nifti_write": "medseg.io.formats.nifti_write",
    "medseg.io.nrrd": "medseg.io.formats.nrrd",
    "medseg.io.stream": "medseg.io.formats.stream",
    "medseg.io.text_header": "medseg.io.formats.text_header",
    "medseg.io.voxels": "medseg.io.formats.voxels",
    "medseg.networks.allocate": "medseg.networks.presets.allocation",
    "medseg.networks.blocks": "medseg.networks.convolutions.plain",
    "medseg.networks.context": "medseg.networks.contract",
    "medseg.networks.conv3d": "medseg.networks.layers.conv3d",
    "medseg.networks.entries": "medseg.networks.steps_down",
    "medseg.networks.flop": "medseg.networks.cost",
    "medseg.networks.gated_blocks": "medseg.networks.convolutions.gated",
    "medseg.networks.geometry": "medseg.networks.strides",
    "medseg.networks.measure": "medseg.networks.cost",
    "medseg.networks.mednext": "medseg.networks.convolutions.mednext",
    "medseg.networks.monai_weights": "medseg.networks.imported.monai_swin_unetr",
    "medseg.networks.nnunet": "medseg.networks.imported.nnunet",
    "medseg.networks.norm_act": "medseg.networks.layers.norm_act",
    "medseg.networks.specs": "medseg.networks.recipe",
    "medseg.networks.sublayers": "medseg.networks.build_stage",
    "medseg.networks.unetr_block": "medseg.networks.convolutions.unetr",
    "medseg.planning.splits": "medseg.planning.folds",
    "medseg.tracking.register": "medseg.tracking.mlflow_registry",
    "medseg.training.cases": "medseg.planning.folds",
    "medseg.training.cross_validation": "medseg.selection.cross_validation",
    "medseg.transforms.augmentation": "medseg.transforms.crops.augmentation",
    "medseg.transforms.device_augmentation": "medseg.transforms.crops.device_augmentation",
    "medseg.transforms.intensity": "medseg.transforms.crops.intensity",
    "medseg.transforms.monai_postprocessing": "medseg.transforms.monai",
    "medseg.transforms.monai_preprocessing": "medseg.transforms.monai",
    "medseg.transforms.recipes": "medseg.transforms.crops.recipes",
    "medseg.transforms.sampling": "medseg.transforms.crops.sampling",
    "medseg_kernels.gated_linear_recurrence.chunkwise": "medseg_kernels.gated_linear_recurrence.chunked",
    "medseg_kernels.gated_linear_recurrence.chunkwise_backward": "medseg_kernels.gated_linear_recurrence.chunked_backward",
    "medseg_kernels.gated_linear_recurrence.general": "medseg_kernels.gated_linear_recurrence.api",
    "medseg_kernels.gated_linear_recurrence.triton_backend": "medseg_kernels.gated_linear_recurrence.triton_launch",
    "medseg_kernels.gated_linear_recurrence.triton_pieces": "medseg_kernels.gated_linear_recurrence.triton_shared",
    "medseg_kernels.selective_scan.check": "medseg_kernels.selective_scan.checks",
    "medseg_kernels.selective_scan.convolved": "medseg_kernels.convolved_scan.op",
    "medseg_kernels.selective_scan.functions": "medseg_kernels.selective_scan.api",
    "medseg_kernels.selective_scan.triton_call": "medseg_kernels.selective_scan.triton_launch",
    "medseg_kernels.short_conv.functions": "medseg_kernels.short_conv.api",
    "medseg_kernels.short_conv.triton_call": "medseg_kernels.short_conv.triton_launch",
    "medseg_kernels.window_attention.geometry": "medseg_kernels.window_attention.windows",
    "medseg_kernels.window_attention.problem": "medseg_kernels.window_attention.call",
    "medseg_kernels.window_attention.reference_backend": "medseg_kernels.window_attention.chunked",
    "medseg_kernels.window_attention.registration": "medseg_kernels.window_attention.op",
    "medseg_kernels.window_attention.triton_backend": "medseg_kernels.window_attention.triton_launch",
    "medseg_kernels.window_attention.triton_common": "medseg_kernels.window_attention.triton_shared",
}

# names that are now elsewhere than the rest of their old module, or whose old module has become a folder
NAMES = {
    "medseg.bundle.fit.number_of_folds": "medseg.planning.folds.number_of_folds",
    "medseg.bundle.install.unpacked_once": "medseg.bundle.catalogue.unpacked_once",
    "medseg.bundle.layout.find_bundle": "medseg.bundle.catalogue.find_bundle",
    "medseg.bundle.layout.find_bundle_root": "medseg.bundle.catalogue.find_bundle_root",
    "medseg.bundle.layout.installed_folder": "medseg.bundle.catalogue.installed_folder",
    "medseg.bundle.layout.known_bundles": "medseg.bundle.catalogue.known_bundles",
    "medseg.bundle.layout.packaged_folder": "medseg.bundle.catalogue.packaged_folder",
    "medseg.bundle.predict.PredictOptions": "medseg.inference.settings.PredictOptions",
    "medseg.bundle.predict.make_segmenter": "medseg.bundle.predictor.make_segmenter",
    "medseg.bundle.write.check_name": "medseg.layout.check_name",
    "medseg.config.choose_device": "medseg.devices.choose_device",
    "medseg.evaluation.figures.overlay": "medseg.evaluation.report.slices.overlay",
    "medseg.evaluation.report.Scene": "medseg.evaluation.report.sections.Scene",
    "medseg.evaluation.report.Section": "medseg.evaluation.report.page.Section",
    "medseg.evaluation.report.cases_section": "medseg.evaluation.report.sections.cases_section",
    "medseg.evaluation.report.curves_section": "medseg.evaluation.report.sections.curves_section",
    "medseg.evaluation.report.facts_section": "medseg.evaluation.report.sections.facts_section",
    "medseg.evaluation.report.overlays_section": "medseg.evaluation.report.sections.overlays_section",
    "medseg.evaluation.report.paths_section": "medseg.evaluation.report.sections.paths_section",
    "medseg.evaluation.report.practice_section": "medseg.evaluation.report.sections.practice_section",
    "medseg.evaluation.report.scores_section": "medseg.evaluation.report.sections.scores_section",
    "medseg.evaluation.report.timings_section": "medseg.evaluation.report.sections.timings_section",
    "medseg.evaluation.report.training_section": "medseg.evaluation.report.sections.training_section",
    "medseg.evaluation.report.write_report": "medseg.evaluation.report.page.write_report",
    "medseg.inference.engines.ENGINES": "medseg.inference.engines.choice.ENGINES",
    "medseg.inference.engines.Engine": "medseg.inference.engines.engine.Engine",
    "medseg.inference.engines.EngineError": "medseg.inference.engines.engine.EngineError",
    "medseg.inference.engines.LARGEST_DEVIATION": "medseg.inference.engines.choice.LARGEST_DEVIATION",
    "medseg.inference.engines.OPENVINO_SETTINGS": "medseg.inference.engines.openvino.OPENVINO_SETTINGS",
    "medseg.inference.engines.PAYS_AFTER_S": "medseg.inference.engines.choice.PAYS_AFTER_S",
    "medseg.inference.engines.PRECISIONS": "medseg.inference.engines.engine.PRECISIONS",
    "medseg.inference.engines.build_engine": "medseg.inference.engines.choice.build_engine",
    "medseg.inference.engines.choose_engine": "medseg.inference.engines.choice.choose_engine",
    "medseg.inference.engines.default_precision": "medseg.inference.engines.choice.default_precision",
    "medseg.inference.engines.import_openvino": "medseg.inference.engines.openvino.import_openvino",
    "medseg.inference.engines.refuse_precision": "medseg.inference.engines.choice.refuse_precision",
    "medseg.inference.windows.SIGMA_SCALE": "medseg.inference.windows.places.SIGMA_SCALE",
    "medseg.inference.windows.SMALLEST_WEIGHT": "medseg.inference.windows.places.SMALLEST_WEIGHT",
    "medseg.inference.windows.axis_starts": "medseg.inference.windows.places.axis_starts",
    "medseg.inference.windows.even_starts": "medseg.inference.windows.places.even_starts",
    "medseg.inference.windows.importance_map": "medseg.inference.windows.places.importance_map",
    "medseg.inference.windows.padding": "medseg.inference.windows.places.padding",
    "medseg.inference.windows.per_axis": "medseg.inference.windows.places.per_axis",
    "medseg.inference.windows.window_size": "medseg.inference.windows.places.window_size",
    "medseg.inference.windows.window_starts": "medseg.inference.windows.places.window_starts",
    "medseg.io.geometry.resample_to_grid": "medseg.io.resample.resample_to_grid",
    "medseg.networks.layers.AVERAGE_POOL": "medseg.networks.layers.common.AVERAGE_POOL",
    "medseg.networks.layers.BATCH_NORM": "medseg.networks.layers.common.BATCH_NORM",
    "medseg.networks.layers.CONVOLUTION": "medseg.networks.layers.common.CONVOLUTION",
    "medseg.networks.layers.DropPath": "medseg.networks.layers.common.DropPath",
    "medseg.networks.layers.ImageLayerNorm": "medseg.networks.layers.common.ImageLayerNorm",
    "medseg.networks.layers.LayerScale": "medseg.networks.layers.common.LayerScale",
    "medseg.networks.layers.MAX_POOL": "medseg.networks.layers.common.MAX_POOL",
    "medseg.networks.layers.RMSNorm": "medseg.networks.layers.common.RMSNorm",
    "medseg.networks.layers.TRANSPOSED": "medseg.networks.layers.common.TRANSPOSED",
    "medseg.networks.layers.activation": "medseg.networks.layers.common.activation",
    "medseg.networks.layers.convolution": "medseg.networks.layers.common.convolution",
    "medseg.networks.layers.crop_like": "medseg.networks.layers.common.crop_like",
    "medseg.networks.layers.image_norm": "medseg.networks.layers.common.image_norm",
    "medseg.networks.layers.layer_scale": "medseg.networks.layers.common.layer_scale",
    "medseg.networks.layers.pad_to_multiple": "medseg.networks.layers.common.pad_to_multiple",
    "medseg.networks.layers.per_axis": "medseg.networks.layers.common.per_axis",
    "medseg.networks.layers.resize": "medseg.networks.layers.common.resize",
    "medseg.networks.layers.to_image": "medseg.networks.layers.common.to_image",
    "medseg.networks.layers.to_tokens": "medseg.networks.layers.common.to_tokens",
    "medseg.networks.layers.token_norm": "medseg.networks.layers.common.token_norm",
    "medseg.networks.sublayers.CONVOLUTIONS": "medseg.networks.convolutions.CONVOLUTIONS",
    "medseg.transforms.preprocessing.Preprocessd": "medseg.transforms.monai.Preprocessd",
    "medseg.transforms.preprocessing.RestoreLabeld": "medseg.transforms.monai.RestoreLabeld",
    "medseg.training.datamodule.TrainingDataset": "medseg.training.case_datasets.TrainingDataset",
    "medseg.training.datamodule.ValidationDataset": "medseg.training.case_datasets.ValidationDataset",
}


def current(dotted: str) -> str:
    """Today's full name of a module, class or function; the same text where nothing has moved.

    Example:
        >>> current("medseg.bundle.layout.find_bundle_root")
        'medseg.bundle.catalogue.find_bundle_root'
    """
    steps = dotted.split(".")
    for count in range(len(steps), 1, -1):
        head = ".".join(steps[:count])
        found = NAMES.get(head) or MODULES.get(head)
        if found:
            return ".".join([found, *steps[count:]])
    return dotted


def _object(dotted: str) -> object:
    module, _, name = dotted.rpartition(".")
    return getattr(importlib.import_module(module), name)


def names_that_left(module: str) -> Callable[[str], Any]:
    """The `__getattr__` of a module that stayed while some of its names left.

    Args:
        module: its `__name__`.
    """

    def find(name: str) -> Any:
        moved = NAMES.get(f"{module}.{name}")
        if moved is None:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        return _object(moved)

    return find


class MovedModule(ModuleType):
    """An old module: every name is looked up, and set, where it lives today."""

    def _home(self, name: str) -> object:
        moved = NAMES.get(f"{self.__name__}.{name}")
        return importlib.import_module(moved.rpartition(".")[0] if moved else MODULES[self.__name__])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._home(name), name)

    def __setattr__(self, name: str, value: object) -> None:
        if name.startswith("__"):
            super().__setattr__(name, value)
        else:
            setattr(self._home(name), name, value)

    def __dir__(self) -> list[str]:
        return dir(importlib.import_module(MODULES[self.__name__]))


class OldNames(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Answers `import` of a module that has moved; it stands last, so that it is asked only when nothing else knows the name."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """A spec for an old module, None for any other."""
        return importlib.machinery.ModuleSpec(fullname, self) if fullname in MODULES else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """The stand-in; what it stands for is imported now, so that its errors show here."""
        importlib.import_module(MODULES[spec.name])
        return MovedModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run."""


def install() -> None:
    """Make old names importable; a second call changes nothing."""
    if not any(isinstance(finder, OldNames) for finder in sys.meta_path):
        sys.meta_path.append(OldNames())
