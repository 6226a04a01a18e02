"""Fourteen bundles made to hurt: each is refused with one line, and none of them gets to create its canary file."""

from __future__ import annotations

import json
import pickle
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from medseg.bundle.checks.verify import verify_bundle
from medseg.bundle.load import load_bundle
from medseg.commands.install import install_bundle
from medseg.commands.pack import pack_bundle
from medseg.errors import MedsegError, UntrustedBundleError
from medseg.layout import Layout

pytestmark = pytest.mark.requirement("R13")


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def set_inference(layout: Layout, **values: Any) -> None:
    edit(layout.inference, lambda content: content.update(values))


def open_and_use(layout: Layout) -> None:
    """As far as predict goes: configuration, preprocessing, network, weights."""
    bundle = load_bundle(layout.folder)
    _ = bundle.preprocessing, bundle.roi_size, bundle.label_settings
    bundle.network()


def eval_expression(layout: Layout, canary: Path) -> None:
    set_inference(layout, roi_size=f"$eval(\"open('{canary}', 'w').close() or [32, 32, 32]\")")


def import_statement(layout: Layout, canary: Path) -> None:
    (layout.folder / "evil.py").write_text(f"open({str(canary)!r}, 'w').close()\n")
    set_inference(layout, imports=["$import evil"])


def target_os_system(layout: Layout, canary: Path) -> None:
    set_inference(layout, network_def={"_target_": "os.system", "command": f"touch {canary}"})


def target_through_torch(layout: Layout, canary: Path) -> None:
    target = "torch.nn.functional.torch.os.system"
    set_inference(layout, network_def={"_target_": target, "command": f"touch {canary}"})


def target_through_monai(layout: Layout, canary: Path) -> None:
    target = "monai.transforms.utils.os.system"
    set_inference(layout, preprocessing_def={"_target_": target, "command": f"touch {canary}"})


def target_run_cmd(layout: Layout, canary: Path) -> None:
    set_inference(layout, network_def={"_target_": "monai.utils.run_cmd", "cmd_list": ["touch", str(canary)]})


def logging_conf(layout: Layout, canary: Path) -> None:
    text = layout.logging.read_text().replace("args=(sys.stderr,)", f"args=(open('{canary}', 'w'),)")
    layout.logging.write_text(text)


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return (open, (self.path, "w"))


def pickled_weights(layout: Layout, canary: Path) -> None:
    torch.save({"weight": Touch(canary)}, layout.weights)


def yaml_tag(layout: Layout, canary: Path) -> None:
    layout.inference.unlink()
    text = f"roi_size: !!python/object/apply:os.system ['touch {canary}']\n"
    layout.inference.with_suffix(".yaml").write_text(text)


def override_inside(layout: Layout, canary: Path) -> None:
    """A key that rewrites another one while files are merged, as override files do."""
    values = {"network_def::_target_": "os.system", "network_def::command": f"touch {canary}"}
    set_inference(layout, **values)


def huge_power(layout: Layout, canary: Path) -> None:
    set_inference(layout, roi_size="$[9**9**9, 32, 32]")


CONFIGURATIONS = [
    eval_expression,
    import_statement,
    target_os_system,
    target_through_torch,
    target_through_monai,
    target_run_cmd,
    pickled_weights,
    yaml_tag,
    override_inside,
    huge_power,
]


@pytest.mark.parametrize("attack", CONFIGURATIONS, ids=lambda attack: attack.__name__)
def test_hostile_bundle_is_refused(
    attack: Callable[[Layout, Path], None], bundle: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = tmp_path / "canary"
    attack(bundle, canary)
    monkeypatch.syspath_prepend(str(bundle.folder))  # where MONAI puts the bundle's own modules
    with pytest.raises(MedsegError) as caught:
        open_and_use(bundle)
    assert not canary.exists()
    assert "\n" not in str(caught.value)
    assert str(bundle.folder) in str(caught.value)


def test_refusal_names_file_key_and_expression(bundle: Layout) -> None:
    set_inference(bundle, roi_size="$exec('x')")
    with pytest.raises(UntrustedBundleError, match=r"inference\.json: refused, roi_size: .*exec\('x'\).*--trust"):
        load_bundle(bundle.folder)


def test_hostile_logging_conf_is_refused_by_verify(bundle: Layout, tmp_path: Path) -> None:
    logging_conf(bundle, tmp_path / "canary")
    faults = {check.name: check.faults for check in verify_bundle(bundle.folder)}
    assert any("logging.conf" in fault for fault in faults["logging.conf is plain"])
    open_and_use(bundle)  # our own commands never apply it
    assert not (tmp_path / "canary").exists()


def bad_zip(path: Path, change: Callable[[zipfile.ZipFile], None]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/configs/metadata.json", json.dumps({"name": "x"}))
        change(archive)
    return path


def test_zip_slip_is_refused(tmp_path: Path) -> None:
    for name in ("../canary", "x/../../canary", "/canary", "C:/canary", "x\\..\\canary"):
        file = bad_zip(tmp_path / "slip.zip", lambda archive, name=name: archive.writestr(name, "x"))
        with pytest.raises(UntrustedBundleError, match=r"path|climbs"):
            install_bundle(str(file))
    assert not list(tmp_path.rglob("canary"))
    assert not list((tmp_path / "installed").iterdir())


def test_link_in_zip_is_refused(tmp_path: Path) -> None:
    def add_link(archive: zipfile.ZipFile) -> None:
        entry = zipfile.ZipInfo("x/models")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, str(tmp_path))
        archive.writestr("x/models/canary", "x")

    with pytest.raises(UntrustedBundleError, match="link"):
        install_bundle(str(bad_zip(tmp_path / "link.zip", add_link)))
    assert not (tmp_path / "canary").exists()


def test_bomb_is_refused_before_it_grows(tmp_path: Path) -> None:
    file = bad_zip(tmp_path / "bomb.zip", lambda archive: archive.writestr("x/models/model.pt", b"\0" * (64 << 20)))
    with pytest.raises(UntrustedBundleError, match="bomb"):
        install_bundle(str(file))


def test_changed_since_trusted_asks_again(bundle: Layout) -> None:
    set_inference(bundle, note="$str(vars())")
    with pytest.raises(UntrustedBundleError, match="--trust"):
        load_bundle(bundle.folder)
    load_bundle(bundle.folder, trust=True)
    load_bundle(bundle.folder)  # remembered
    (bundle.folder / "scripts").mkdir()
    (bundle.folder / "scripts" / "extra.py").write_text("x = 1\n")
    with pytest.raises(UntrustedBundleError, match=r"scripts/extra\.py changed since"):
        load_bundle(bundle.folder)


def test_pickled_weights_are_refused_even_with_trust(bundle: Layout, tmp_path: Path) -> None:
    pickled_weights(bundle, tmp_path / "canary")
    with pytest.raises(UntrustedBundleError, match="weights_only"):
        load_bundle(bundle.folder, trust=True).network()
    assert not (tmp_path / "canary").exists()
    with bundle.weights.open("wb") as stream:
        pickle.dump(Touch(tmp_path / "canary"), stream)
    with pytest.raises(MedsegError):
        load_bundle(bundle.folder).network()
    assert not (tmp_path / "canary").exists()


def test_packed_bundle_with_a_flipped_byte_is_refused(bundle: Layout, tmp_path: Path) -> None:
    packed = pack_bundle(bundle.folder, tmp_path / "good.zip")
    content = bytearray(packed.path.read_bytes())
    with zipfile.ZipFile(packed.path) as archive:
        entry = archive.getinfo("tiny_mr_unet/models/model.pt")
    content[entry.header_offset + 2000] ^= 1
    (tmp_path / "bad.zip").write_bytes(bytes(content))
    with pytest.raises(MedsegError):
        install_bundle(str(tmp_path / "bad.zip"))
    assert not (tmp_path / "installed" / "tiny_mr_unet").exists()


def test_trusted_bundle_may_bring_its_own_python(bundle: Layout) -> None:
    """What `--trust` is for: many public bundles keep classes in their own scripts folder."""
    (bundle.folder / "own_scripts").mkdir()
    (bundle.folder / "own_scripts" / "sizes.py").write_text("def roi():\n    return [32, 32, 32]\n")
    set_inference(bundle, roi_size={"_target_": "own_scripts.sizes.roi"})
    with pytest.raises(UntrustedBundleError, match=r"own_scripts\.sizes\.roi"):
        load_bundle(bundle.folder)
    assert load_bundle(bundle.folder, trust=True).roi_size == (32, 32, 32)
