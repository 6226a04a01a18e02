"""Names and sentences of a dataset are shown in the model card as they are: no markup, no table, no line of their own."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from medseg.bundle.card import license_text, model_card, update_figures
from medseg.layout import Layout
from tests.bundle.samples import make_plan

HOSTILE = "<img src=x onerror=alert(1)> | [a](javascript:b)\n# mine `$x$` \x1b[2J\u202e"


def test_hostile_names_stay_text(bundle: Layout) -> None:
    plan = make_plan(Path("data"), ["a", "b"])
    changes = {
        "labels": {0: "background", 1: HOSTILE},
        "channels": {0: HOSTILE},
        "reference": HOSTILE,
        "licence": HOSTILE,
    }
    hostile = dataclasses.replace(plan, **changes)
    card = model_card(hostile, metrics={HOSTILE: {"mean": 0.5}})
    calm = model_card(dataclasses.replace(plan, labels={0: "background", 1: "x"}), metrics={"x": {"mean": 0.5}})
    bundle.readme.write_text(card)
    bundle.run(0).folder.mkdir(parents=True)
    bundle.run(0).result.write_text('{"val_dice/<b>|": 0.5, "val_dice": 0.5}')
    assert [line for line in card.splitlines() if line.startswith("#")] == [
        line for line in calm.splitlines() if line.startswith("#")
    ]
    assert len(card.splitlines()) == len(calm.splitlines())
    update_figures(bundle.folder)
    for text in (card, bundle.readme.read_text()):
        assert "<" not in text.replace("&lt;", "")
        assert "](" not in text.replace("\\](", "")
        assert text.isprintable() or all(letter.isprintable() or letter == "\n" for letter in text)
    row = next(line for line in card.splitlines() if line.startswith("| 1 |"))
    assert row.replace("\\|", "").count("|") == 3
    assert len(license_text(hostile).splitlines()) == len(license_text(plan).splitlines())
