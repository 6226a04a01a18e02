"""Before `--trust` runs anything, a person sees every file, name and import, and types yes; elsewhere it is one refusal."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
import torch

from medseg.bundle.load import load_bundle
from medseg.bundle.opening.inventory import take_inventory
from medseg.bundle.opening.listing import describe
from medseg.cli.consent import VARIABLE, ask
from medseg.cli.main import main
from medseg.commands.fit import fit_bundle
from medseg.errors import BundleError, UntrustedBundleError
from medseg.layout import Layout


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    monkeypatch.setenv("MEDSEG_TRUSTED", str(tmp_path / "trusted.json"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    layout = Layout(tmp_path / "stranger")
    layout.configs.mkdir(parents=True)
    (layout.folder / "scripts").mkdir()
    (layout.folder / "scripts" / "sizes.py").write_text("def roi():\n    return [32, 32, 32]\n")
    (layout.folder / "scripts" / "fast.so").write_bytes(b"\x7fELF")
    layout.metadata.write_text(json.dumps({"name": "stranger"}))
    inference = {"imports": ["$import os"], "roi_size": {"_target_": "scripts.sizes.roi"}, "one": "$1 + 1"}
    layout.inference.write_text(json.dumps(inference))
    return layout


def answer(monkeypatch: pytest.MonkeyPatch, text: str) -> Terminal:
    screen = Terminal()
    monkeypatch.setattr(sys, "stdin", Terminal(text))
    monkeypatch.setattr(sys, "stderr", screen)
    return screen


def test_listing_shows_files_objects_imports_and_counts(layout: Layout) -> None:
    (layout.folder / "evil\x1b[2J.py").write_text("")
    shown = take_inventory(layout.folder, private_copy=True)
    text = "\n".join(describe(shown, []))
    for name, facts in shown.files.items():
        assert f"{facts.sha256}  {facts.size:>12}  {name}" in text
    code = text.split("configurations (SHA-256")[0]
    assert "scripts/sizes.py" in code
    assert "scripts/fast.so" in code
    assert r"evil\x1b[2J.py" in code
    assert "\x1b" not in text
    assert "objects named by _target_ (1):\n  scripts.sizes.roi" in text
    assert "imports (1):\n  $import os" in text
    assert "expressions: 2" in text
    assert shown.digest in text


def test_yes_is_asked_once_and_again_after_a_change(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = answer(monkeypatch, "yes\n")
    assert load_bundle(layout.folder, trust=ask).roi_size == (32, 32, 32)
    assert "scripts.sizes.roi" in screen.getvalue()
    screen = answer(monkeypatch, "")
    assert load_bundle(layout.folder, trust=ask).roi_size == (32, 32, 32)
    assert not screen.getvalue()
    (layout.folder / "scripts" / "new.py").write_text("")
    for text in ("no\n", "y\n", "\n", ""):
        screen = answer(monkeypatch, text)
        with pytest.raises(UntrustedBundleError, match="not trusted, nothing was run"):
            load_bundle(layout.folder, trust=ask)
        assert "scripts/new.py  (changed)" in screen.getvalue()


def test_without_a_terminal_it_is_one_line_of_refusal(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["fit", str(layout.folder), "--trust"]
    layout.train.write_text(json.dumps({"run": [{"_target_": "scripts.sizes.roi"}]}))
    assert main(words) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    digest = take_inventory(layout.folder).digest
    assert f"{VARIABLE}={digest}" in told
    monkeypatch.setenv(VARIABLE, digest)
    assert load_bundle(layout.folder, trust=ask).roi_size == (32, 32, 32)
    (layout.folder / "scripts" / "new.py").write_text("")
    with pytest.raises(UntrustedBundleError, match="asks on a terminal"):
        load_bundle(layout.folder, trust=ask)


def test_fit_runs_the_shown_files(layout: Layout, tmp_path: Path) -> None:
    """MONAI's own workflow puts the bundle's folder on sys.path; still the shown module and train.json run."""
    job = layout.folder / "scripts" / "job.py"
    job.write_text(f"def run():\n    open({str(tmp_path / 'shown')!r}, 'w').close()\n    return {{'val_dice': 0.5}}\n")
    layout.train.write_text(json.dumps({"run": [{"_target_": "scripts.job.run"}]}))
    layout.splits.write_text("[{}]")
    with pytest.raises(UntrustedBundleError, match=r"scripts\.job\.run"):
        fit_bundle(layout.folder, device="cpu")

    def consent(_shown: object) -> None:
        job.write_text("raise SystemExit\n")
        layout.train.write_text(json.dumps({"run": [{"_target_": "scripts.other.run"}]}))

    assert fit_bundle(layout.folder, device="cpu", trust=consent) == {0: {"val_dice": 0.5}}
    assert (tmp_path / "shown").exists()
    with pytest.raises(UntrustedBundleError, match="changed since"):
        fit_bundle(layout.folder, device="cpu")


def test_weights_of_a_trusted_fit_are_tried_before_an_earlier_run_is_set_aside(layout: Layout, tmp_path: Path) -> None:
    (layout.folder / "scripts" / "job.py").write_text(
        "import torch\n"
        "class Module:\n    network = torch.nn.Linear(2, 3)\n"
        "def run(module, partial=()):\n    return {'val_dice': float(module.network is not None)}\n"
    )
    module = {"_target_": "scripts.job.Module"}
    layout.train.write_text(
        json.dumps({"train": {"module": module}, "run": {"_target_": "scripts.job.run", "module": "@train::module"}})
    )
    layout.splits.write_text("[{}]")
    earlier = layout.run(0).folder / "metrics.json"
    earlier.parent.mkdir(parents=True)
    earlier.write_text("[]")
    for name, outputs in (("fits", 3), ("other", 4)):
        torch.save(torch.nn.Linear(2, outputs).state_dict(), tmp_path / f"{name}.pt")
    with pytest.raises(BundleError, match=r"'weight' is \(4, 2\).*nothing was loaded"):
        fit_bundle(layout.folder, device="cpu", trust=True, init_from=tmp_path / "other.pt")
    assert earlier.is_file()
    fit_bundle(layout.folder, device="cpu", trust=True, init_from=tmp_path / "fits.pt")
    assert not earlier.exists()
