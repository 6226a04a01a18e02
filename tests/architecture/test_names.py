"""Equal file names mean equal things, every kernel family has the same file names, and no file or package grows out of hand."""

from __future__ import annotations

import re
import statistics
from collections import defaultdict
from pathlib import Path

from tests.architecture.test_floors import MEDSEG, ROOT, SOURCES

LARGEST, MEDIAN = 350, 120
KERNELS = ROOT / "kernels" / "medseg_kernels"

# basename -> why several files have it
SAME_THING = {
    "cluster.py": "the verb and its words",
    "cohort.py": "the scheduling of cases and the command that uses it",
    "parts.py": "of a list of cases, and what mixers are made of",
    "split.py": "the verb and its words",
    "plan.py": "the record (planning), the verb (commands), its words (cli)",
    "federate.py": "the verb and its words",
    "fit.py": "what runs inside Lightning (training), the verb, its words",
    "predict.py": "the verb and its words",
    "adapt.py": "the verb and its words",
    "pretrain.py": "the verb and its words",
    "cv.py": "the verb and its words",
    "compare.py": "the verb and its words",
    "stress.py": "the verb and its words",
    "probe.py": "the verb and its words",
    "synthesize.py": "the verb and its words",
    "view.py": "the verb and its words",
    "demo.py": "the data set that the verb makes, the verb, its words",
    "sbom.py": "what is written (tracking) and the words of `python -m medseg.cli.sbom`",
    "nnunet.py": "nnU-Net's data layout and nnU-Net's network",
    "inputs.py": "inputs on the command line and inputs of MONAI's workflows",
    "memory.py": "of a training step (planning), of windows, of the engine that was fastest",
    "components.py": "the components of bundle files: their frozen names, and the check of those that a file names",
    "predictor.py": "what segments a volume, and how a bundle becomes one",
    "regions.py": "regions of a data set and regions of a decoder",
    "recipe.py": "words of a preset and words of a plan",
    "retention.py": "the mixer and the preset around it",
    "mambavision.py": "the mixer and the preset around it",
    "common.py": "what the files of one folder share",
    "record.py": "what stands beside a label map: how it is known again, and how it is made",
    "grid.py": "of a plan and of a transform",
}
FAMILY_FILES = {
    "__init__", "api", "op", "checks", "reference", "chunked", "chunked_backward", "cpu", "triton_launch", "triton_forward",
    "triton_backward", "triton_shared",
}  # fmt: skip
# what only one family needs: file -> why
OWN_FILES = {
    "gated_linear_recurrence": {
        "layout": "strides of a call", "members": "its named special cases", "mlstm": "the member with a stabiliser",
        "run": "one call, form by form", "segments": "pieces of a sequence", "visits": "traversals as lists of tokens",
    },
    "short_conv": {"tables": "taps as tables"},
    "stitch": {"tables": "axes of a source grid as tables"},
    "warp": {"choice": "which form is fastest", "values": "changes of intensity"},
    "window_attention": {
        "call": "one call's tensors",
        "dropout": "its random numbers",
        "tables": "windows as tables",
        "triton_fused": "the backward pass in one kernel",
        "windows": "windows as index arithmetic",
    },
}  # fmt: skip
# files of other programs, or of the reader, that pages speak of
ELSEWHERE = {"predict_from_raw_data.py", "default_resampling.py", "mixers.py"}  # nnU-Net's; a project's
FAMILIES = sorted(path.parent for path in KERNELS.glob("*/op.py"))


def test_equal_basenames_mean_equal_things() -> None:
    places = defaultdict(list)
    for path in MEDSEG:
        if path.name != "__init__.py":
            places[path.name].append(path.relative_to(ROOT).as_posix())
    several = {name: found for name, found in places.items() if len(found) > 1}
    new = {name: found for name, found in several.items() if name not in SAME_THING}
    assert not new, f"rename one of each, or say in SAME_THING why they are the same thing: {new}"
    assert set(SAME_THING) == set(several), f"no longer several: {set(SAME_THING) - set(several)}"


def test_kernel_families_share_their_file_names() -> None:
    for family in FAMILIES:
        found = {path.stem for path in family.glob("*.py")}
        assert found == (found & FAMILY_FILES) | set(OWN_FILES.get(family.name, {})), family.name


def test_files_stay_small() -> None:
    roots = ("medseg", "kernels", "tests", "benchmarks")
    files = [path for root in roots for path in (ROOT / root).rglob("*.py")]
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    large = {str(path.relative_to(ROOT)): n for path, n in lengths.items() if n > LARGEST}
    assert not large
    assert statistics.median(lengths[Path(path)] for path in SOURCES) <= MEDIAN


def test_every_source_file_that_a_page_or_comment_names_is_there() -> None:
    tops = ("medseg", "kernels", "tests", "benchmarks", "docs")
    there = {path.name for top in tops for path in (ROOT / top).rglob("*") if path.suffix in (".py", ".cpp", ".hpp")}
    pages = [path for top in tops for path in (ROOT / top).rglob("*.md")] + list(ROOT.glob("*.md"))
    sources = [path for path in (ROOT / "kernels").rglob("*") if path.suffix in (".cpp", ".hpp", ".py")]
    sources += [path for top in ("medseg", "benchmarks") for path in (ROOT / top).rglob("*.py")]
    gone = []
    for path in [*pages, *sources]:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            names = re.findall(r"(?<![\w*<{])([a-z][a-z0-9_]*\.(?:py|cpp|hpp))(?!\w)", line)
            gone += [f"{path.relative_to(ROOT)}:{number}: {name}" for name in names if name not in there | ELSEWHERE]
    assert not gone, "\n".join(gone)
