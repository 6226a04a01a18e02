"""The tests of `x/y.py` are `tests/x/test_y.py`, or the table says which tests hold it and why they have another name."""

from __future__ import annotations

import fnmatch
from pathlib import Path

from tests.architecture.test_floors import ROOT, SOURCES

# Of the files that no row below excuses; raise it whenever more have a test of their name. 0.8 is wanted.
LEAST = 0.4

# pattern of sources -> (where their tests lie, why those have another name)
HELD_ELSEWHERE = {
    "kernels/medseg_kernels/compat/*": (
        "tests/kernels/compat",
        "one test per foreign name, in every place it has there",
    ),
    "kernels/medseg_kernels/gated_linear_recurrence/*": (
        "tests/kernels/gated_linear_recurrence",
        "forms of one operator: each is compared with the reference over the same cases",
    ),
    "kernels/medseg_kernels/selective_scan/*": ("tests/kernels/selective_scan/test_twins.py", "as above"),
    "kernels/medseg_kernels/short_conv/*": ("tests/kernels/short_conv/test_short_conv.py", "as above"),
    "kernels/medseg_kernels/stitch/*": ("tests/kernels/stitch/test_stitch.py", "as above"),
    "kernels/medseg_kernels/warp/*": ("tests/kernels/warp/test_warp.py", "as above"),
    "kernels/medseg_kernels/window_attention/*": ("tests/kernels/window_attention/test_twins.py", "as above"),
    "kernels/medseg_kernels/traversals/*": (
        "tests/kernels/traversals/test_traversals.py",
        "orders, curves, tables and checks are one thing: every order is a bijection on every grid",
    ),
    "medseg/networks/mixers/*": ("tests/networks/test_forms.py", "a test over the table runs for the file added next"),
    "medseg/networks/presets/*": (
        "tests/networks/test_every_preset.py",
        "a test over the table runs for the next file",
    ),
    "medseg/networks/imported/*": (
        "tests/networks/imported",
        "a test per foreign program, over all that read its names",
    ),
    "medseg/losses/*": ("tests/losses/test_shapes.py", "a test over the table runs for the file added next"),
    "medseg/datasets/*": ("tests/datasets/test_layouts.py", "a test over the table runs for the layout added next"),
    "medseg/io/formats/*": ("tests/io/test_corpus.py", "the corpus and the fuzz run over the table of formats"),
    "medseg/cli/*": (
        "tests/cli/test_words.py",
        "words: every verb's help, progress, usages and endings, over the table",
    ),
    "medseg/bundle/opening/*": (
        "tests/bundle/opening",
        "a stranger's file passes through all of them: tests are named for what it tries (attacks, limits, trust)",
    ),
    "medseg/__main__.py": ("tests/cli/test_start.py", "one line"),
    "medseg/components.py": ("tests/architecture/test_surface.py", "a table of names"),
    "medseg/layout.py": ("tests/architecture/test_one_place.py", "a table of paths"),
    "medseg/renamed.py": ("tests/bundle/test_kept_bundles.py", "names of 0.1, held by bundles of 0.1"),
    "medseg/types.py": ("tests/architecture/test_floors.py", "aliases, which run nothing"),
}


def place_of_tests(path: Path) -> Path:
    """Where the tests of a source file lie by its name."""
    inside = path.relative_to(ROOT / "kernels" if "medseg_kernels" in path.parts else ROOT / "medseg")
    inside = Path("kernels", *inside.parts[1:]) if "medseg_kernels" in path.parts else inside
    return ROOT / "tests" / inside.parent / f"test_{path.stem.lstrip('_')}.py"


def excuse(path: Path) -> str | None:
    """The row of the table that speaks of a file."""
    name = path.relative_to(ROOT).as_posix()
    return next((pattern for pattern in HELD_ELSEWHERE if fnmatch.fnmatchcase(name, pattern)), None)


def test_sources_have_a_test_of_their_name() -> None:
    asked = [path for path in SOURCES if path.name != "__init__.py" and excuse(path) is None]
    without = [path.relative_to(ROOT).as_posix() for path in asked if not place_of_tests(path).is_file()]
    share = 1 - len(without) / len(asked)
    assert share >= LEAST, f"{share:.3f} of {len(asked)} have one, at least {LEAST} must; without:\n" + "\n".join(
        without
    )


def test_every_row_of_the_table_speaks_of_a_file_and_of_tests_that_are_there() -> None:
    used = {excuse(path) for path in SOURCES if not place_of_tests(path).is_file()}
    assert set(HELD_ELSEWHERE) <= used, f"no longer needed: {set(HELD_ELSEWHERE) - used}"
    gone = [place for place, _ in HELD_ELSEWHERE.values() if not (ROOT / place).exists()]
    assert not gone
