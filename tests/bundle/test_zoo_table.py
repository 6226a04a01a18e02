"""Which bundles of the public model zoo open without --trust, against the table in docs/bundles-elsewhere.md."""

from __future__ import annotations

import re
from pathlib import Path

from medseg.bundle.opening.bounded import GrammarError
from medseg.bundle.opening.expressions import check
from medseg.bundle.opening.targets import TargetError, target_of
from tests.bundle.zoo_expressions import KINDS, OWN_CODE, TARGETS, ZOO

PAGE = Path(__file__).parents[2] / "docs" / "bundles-elsewhere.md"
# names that the files' own import statements make
NAMES = {"np": "numpy", "pd": "pandas", "Path": "pathlib.Path", "datetime": "datetime.datetime", "mn": "monai.networks"}


def opens(name: str) -> bool:
    if name in OWN_CODE:
        return False
    try:
        for kind in ZOO[name]:
            check(KINDS[kind], aliases=NAMES)
        for target in TARGETS[name]:
            component = target if isinstance(target, dict) else {"_target_": target}
            row = target_of(component)
            assert all(row.arguments[key].takes(value, {}) for key, value in component.items() if key != "_target_")
    except (GrammarError, TargetError):
        return False
    return True


def test_the_table_says_which_open_without_trust() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (without|with) `--trust` \| .+ \|$", PAGE.read_text(), re.MULTILINE))
    assert rows == {name: "without" if opens(name) else "with" for name in ZOO}


def test_every_bundle_that_needs_trust_has_its_reason() -> None:
    reasons = re.findall(r"^\| `(\w+)` \| with `--trust` \| (.+) \|$", PAGE.read_text(), re.MULTILINE)
    assert len(reasons) == 18
    assert all(len(reason) > 10 for _, reason in reasons)
