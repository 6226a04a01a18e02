"""Files that change together: killed at any moment, a bundle has all of the old ones or all of the new ones."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from medseg.bundle.catalogue import find_bundle
from medseg.bundle.made_here import is_ours
from medseg.bundle.together import write_together
from medseg.errors import BundleError
from medseg.io import atomic
from medseg.layout import Layout
from medseg.selection.unfinished import make_ready, staged
from tests.bundle.samples import make_bundle


class Killed(BaseException):
    """Stands for SIGKILL: nothing that runs afterwards may help."""


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return make_bundle(tmp_path / "bundle")


def choice(layout: Layout) -> tuple[dict[Path, Any], Path]:
    """New content for three configurations and one weight file of another bundle."""
    weights = layout.models / "other" / "fold_0" / "model.pt"
    weights.parent.mkdir(parents=True, exist_ok=True)
    staged(weights).write_bytes(b"new")
    files = {path: {**json.loads(path.read_text()), "name": "new"} for path in (layout.inference, layout.metadata)}
    return {**files, layout.cross_validation_record: {"chosen": "new"}}, weights


def state(layout: Layout, weights: Path) -> list[str]:
    names = [json.loads(path.read_text()).get("name") for path in (layout.inference, layout.metadata)]
    record = layout.cross_validation_record
    chosen = json.loads(record.read_text())["chosen"] if record.is_file() else "old"
    return ["new" if text == "new" else "old" for text in (*names, chosen, weights.read_text())]


def test_killed_while_a_configuration_is_written_the_bundle_stays_ours(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `kill -9` leaves in configs/ is no part of the bundle; a later command also removes what was never noted."""
    files, weights = choice(layout)
    dead_name = f".medseg-tmp-{atomic._host()}-{2**22 + 1}-{'0' * 8}"  # above the largest process id
    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        exchange, left = os.replace, iter(range(3))

        def deadly(*paths: Any) -> None:
            if next(left, None) is None:
                (layout.configs / f"{dead_name}-inference.json").write_text("{")
                raise Killed
            exchange(*paths)

        patch.setattr(os, "replace", deadly)
        write_together(layout, files, [weights])
    find_bundle(layout.folder)
    assert is_ours(layout.folder)
    assert set(state(layout, weights)) == {"new"}
    assert not [path for path in layout.folder.rglob("*") if path.name.startswith(".medseg-tmp")]
    staged(layout.weights).write_bytes(b"staged by a command that was killed")
    make_ready(layout)
    assert not staged(layout.weights).exists()


def test_killed_at_any_exchange_the_choice_is_the_old_or_the_new_one(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file gets its name by `os.replace`: the record of what is ours, the note, the weights, three configurations."""
    assert is_ours(layout.folder)
    files, weights = choice(layout)
    weights.write_bytes(b"old")
    before = {path: path.read_bytes() for path in (layout.inference, layout.metadata, weights)}
    seen = []
    for steps in range(7):
        for path, content in before.items():
            path.write_bytes(content)
        layout.cross_validation_record.unlink(missing_ok=True)
        staged(weights).write_bytes(b"new")
        with monkeypatch.context() as patch:
            left = iter(range(steps))
            exchange = os.replace

            def deadly(*paths: Any, left: Any = left, exchange: Any = exchange) -> None:
                if next(left, None) is None:
                    raise Killed
                exchange(*paths)

            patch.setattr(os, "replace", deadly)
            with contextlib.suppress(Killed):
                write_together(layout, files, [weights])
        find_bundle(layout.folder)
        (found,) = set(state(layout, weights))
        seen.append(found)
        assert not layout.unfinished.exists()
        assert is_ours(layout.folder)
    assert seen == sorted(seen, reverse=True)
    assert set(seen) == {"old", "new"}


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"files": {"../outside.json": {}}, "weights": []},
        {"files": {"configs/labels.json": {}}, "weights": []},
        {"files": {}, "weights": ["models/../../x/fold_0/model.pt"]},
        {"files": {}, "weights": ["models/last.ckpt"]},
        {"files": {}, "weights": [3]},
    ],
)
def test_a_note_that_is_none_of_ours_changes_nothing(layout: Layout, content: Any) -> None:
    before = layout.inference.read_bytes()
    layout.unfinished.parent.mkdir(exist_ok=True)
    layout.unfinished.write_text(json.dumps(content))
    with pytest.raises(BundleError, match=r"unfinished\.json: a command was killed"):
        find_bundle(layout.folder)
    assert layout.inference.read_bytes() == before
