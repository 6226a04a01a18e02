"""Every target that a stranger may name is built and used with hostile arguments while Python's audit events are heard.

The test runs over the table, so that a new entry is covered the day it is added: without sound arguments in `sound.py` it
fails, and a string, path, address or callable that one of its arguments turns into an act is heard.
"""

from __future__ import annotations

import inspect
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medseg.bundle.opening.kinds import ANYTHING, FALSE
from medseg.bundle.opening.parser import SafeConfig, check_config
from medseg.bundle.opening.stand_ins import SaveImagePart, Unused
from medseg.bundle.opening.targets import TABLE, resolve_target
from medseg.errors import MedsegError
from tests.bundle.opening.sound import PARTS, sound_arguments
from tests.bundle.samples import make_bundle
from tests.reliability.audit import Watch

pytestmark = pytest.mark.requirement("R13")

DONE = {full: row for full, row in TABLE.items() if row.done}
# runs a training: its arguments are judged here, and `medseg fit` of hostile bundles is tried in test_verbs.py
JUDGED_ONLY = {"medseg.training.fit.run_fit"}
# packages that MONAI and Lightning look for by themselves, whatever a bundle says
OPTIONAL = frozenset(
    {
        "cucim",
        "cupy",
        "fsspec",
        "itk",
        "nibabel",
        "nrrd",
        "PIL",
        "pydicom",
        "scipy",
        "skimage",
        "pytorch_lightning",
        "einops",
    }
)
# a switch of the process's own, by a setting that says so
EXPECTED = {("make_trainer", "deterministic"): "os.putenv (b'CUBLAS_WORKSPACE_CONFIG'"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("table").resolve()


@pytest.fixture(scope="module")
def watch(place: Path) -> Iterator[Watch]:
    logging.disable(logging.WARNING)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setenv("MEDSEG_TRUSTED", str(place / "trusted.json"))
        (place / "evil.npy").write_bytes(b"\x93NUMPY")
        (place / "evil.py").write_text("raise SystemExit('imported')\n")
        patch.syspath_prepend(str(place))
        make_bundle(place / "bundle")
        yield Watch(OPTIONAL)
    logging.disable(logging.NOTSET)


def hostile(place: Path) -> list[Any]:
    return [
        "os.system", "builtins.exec", "evil.thing", "evil", str(place.parent / "elsewhere.txt"), "../x", "/etc/passwd",
        "http://127.0.0.1:9/x", str(place / "evil.npy"), "$__import__('os').system('true')", "@nope", "@function",
        "%configs/x.json", "cuda:0", "ITKReader", "", "x" * 5000, -1, 0, 2, 0.5, 10**9, 10**30, True, [], ["os.system"], [[[[1]]]],
        [1] * 5000, {"a": "os.system"}, {"_target_": "os.system", "command": "true"}, {"_target_": "UNet", "_mode_": "callable"},
    ]  # fmt: skip


def config(full: str, place: Path, **changes: Any) -> dict[str, Any]:
    row = DONE[full]
    try:
        parameters = inspect.signature(resolve_target(full)).parameters.values()
        required = {parameter.name for parameter in parameters if parameter.default is parameter.empty}
    except ValueError:  # torch.device
        required = set(row.arguments)
    arguments = sound_arguments(full.rpartition(".")[2], row.arguments, required)
    component = {"_target_": full, **arguments, **changes}
    return {"bundle_root": str(place / "bundle"), **json.loads(json.dumps(PARTS)), "x": component}


def used(made: Any, role: str) -> None:
    """Call what was built as whoever asks for it would."""
    image = torch.arange(8.0**3).reshape(1, 8, 8, 8) % 3
    with torch.no_grad():
        if role == "network":
            made(image[None].expand(1, 1, 8, 8, 8))
        elif role == "inferer":
            made(image[None], lambda window: window)
        elif role == "transform":
            made({"image": image.clone(), "pred": image.clone(), "table": {"a": image.clone()}, "image_meta_dict": {}})
        elif role == "preprocessing":
            made.apply(image.numpy(), np.eye(4))


def tried(values: dict[str, Any], role: str, *, forward: bool = True) -> BaseException | None:
    """Build and use; what a call makes of nonsense may be any exception, what a build makes of it is ours."""
    try:
        made = SafeConfig(values).get("x")
    except MedsegError as error:
        return ValueError("several lines") if "\n" in str(error) else error
    try:
        if forward or role != "network":
            used(made, role)
    except Exception as error:
        return error
    return None


@pytest.mark.parametrize("full", DONE, ids=lambda full: full.rpartition(".")[2])
def test_an_allowed_target_does_nothing_but_compute(full: str, place: Path, watch: Watch) -> None:
    row = DONE[full]
    if full not in JUDGED_ONLY:
        SafeConfig(config(full, place)).get("x")  # imports what it needs; fails here when sound.py lacks its arguments
        with watch.watching(place) as broken:
            tried(config(full, place), row.role)
        assert broken == []
    words = hostile(place)
    if row.role == "network":
        words = [word for word in words if word not in (2, 0.5)]  # sizes that are taken, and only cost time
    findings = {}
    for argument in row.arguments:
        for value in words:
            values = config(full, place, **{argument: value})
            if argument == "tracking" and value is True:
                continue  # starts a record in the bundle's own runs, see tests/tracking
            with watch.watching(place) as broken:
                if full in JUDGED_ONLY:
                    check_config(values)
                else:
                    tried(values, row.role, forward=False)
            known = EXPECTED.get((full.rpartition(".")[2], argument))
            if broken and not (known and all(event.startswith(known) for event in broken)):
                findings[argument] = (value, broken[0])
    assert findings == {}


@pytest.mark.parametrize("full", TABLE, ids=lambda full: full.rpartition(".")[2])
def test_an_argument_that_is_not_in_the_table_is_refused_by_name(full: str) -> None:
    names = {
        "reader",
        "writer",
        "pretrained_url",
        "load_path",
        "path",
        "src",
        "converter",
        "hook",
        "_args_",
        "_imports_",
    }
    for name in names - set(TABLE[full].arguments):
        refusals = check_config({"x": {"_target_": full, name: "os.system"}})
        assert any(repr(name) in str(refusal) for refusal in refusals), (full, name)


def test_a_callable_is_never_handed_on() -> None:
    for full, row in TABLE.items():
        for mode in ("callable", "partial", "debug", "$'callable'", 5):
            refusals = check_config({"x": {"_target_": full, "_mode_": mode}})
            assert bool(refusals) is not (row.callable and mode == "callable"), (full, mode)


def test_what_is_left_undone_is_never_built_from_its_target(place: Path, watch: Watch) -> None:
    for full, row in TABLE.items():
        if row.done:
            continue
        arguments = {name: "os.system" for name, kind in row.arguments.items() if kind is ANYTHING}
        keys = {"keys": "image"} if "keys" in row.arguments else {}
        with watch.watching(place) as broken:
            made = SafeConfig({"x": {"_target_": full, **arguments, **keys}})
            try:
                found = made.get("x")
            except MedsegError:
                found = Unused(full)
        assert broken == []
        name = type(found).__name__
        assert isinstance(found, (Unused, SaveImagePart)) or (name == "LoadImaged" and full.endswith("LoadImaged"))


def test_nothing_downloads() -> None:
    rows = [(full, name) for full, row in TABLE.items() for name in row.arguments if "pretrained" in name]
    assert rows
    for full, name in rows:
        kind = TABLE[full].arguments[name]
        assert kind is FALSE or kind.says == "@pretrained", (full, name)
