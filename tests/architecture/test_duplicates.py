"""The same six lines stand in two places only where this file knows of it, and the number of such pairs only falls."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import combinations

from tests.architecture.test_floors import ROOT

RUN = 6  # equal lines in a row that count
COMMON = 8  # places from which on a run is an idiom of the tree
ROOTS = ("medseg", "kernels", "benchmarks", "tests")
PAIRS = 39  # found when this line was last touched; lower it whenever a pair is gone

Line = tuple[int, str]  # number in the file, text without indent


def lines_of(text: str) -> list[Line]:
    """Lines that say something: no blank ones, no comments, no imports, none of brackets alone."""
    found, inside = [], False
    for number, line in enumerate(text.splitlines(), 1):
        words = line.strip()
        if inside or words.startswith(("import ", "from ")):
            inside = ("(" in words or inside) and ")" not in words
        elif not words.startswith("#") and any(letter.isalnum() for letter in words):
            found.append((number, words))
    return found


def pairs_of(files: Iterable[tuple[str, str]]) -> Iterator[tuple[str, int, str, int, int]]:
    """(file, line, other file, its line, length) of the longest run that two files, or two places of one, share."""
    texts = {name: lines_of(text) for name, text in files}
    places: dict[tuple[str, ...], list[tuple[str, int]]] = defaultdict(list)
    for name, lines in texts.items():
        for at in range(len(lines) - RUN + 1):
            places[tuple(words for _, words in lines[at : at + RUN])].append((name, at))
    longest: dict[tuple[str, str], tuple[int, int, int]] = {}
    for found in places.values():
        if len(found) > COMMON:
            continue
        for (first, here), (second, there) in combinations(found, 2):
            length = _shared(texts[first][here:], texts[second][there:])
            if first == second and there - here < length:
                continue  # a run that repeats within itself
            best = longest.get((first, second), (0, 0, 0))
            longest[first, second] = max(best, (length, -here, -there))
    for (first, second), (length, here, there) in sorted(longest.items()):
        yield first, texts[first][-here][0], second, texts[second][-there][0], length


def _shared(first: list[Line], second: list[Line]) -> int:
    length = 0
    for (_, here), (_, there) in zip(first, second, strict=False):
        if here != there:
            break
        length += 1
    return length


def test_equal_runs_are_found_whatever_stands_between_their_lines() -> None:
    run = [f"value_{n} = step({n})" for n in range(RUN)]
    first = "\n".join(["import os", *run, "last = 1"])
    second = "\n".join(["def f():", *(f"    {line}\n\n    # why" for line in run), "    return 2"])
    assert list(pairs_of([("a", first), ("b", second)])) == [("a", 2, "b", 2, RUN)]
    assert not list(pairs_of([("a", first), ("b", second.replace("value_3", "other"))]))
    assert list(pairs_of([("a", first + "\n" + first)])) == [("a", 2, "a", 10, RUN + 1)]
    imports = "from os import (\n" + "\n".join(f"    name_{n}," for n in range(RUN)) + "\n)"
    assert not list(pairs_of([("a", imports), ("b", imports)]))


def test_no_new_pair_of_places_says_the_same() -> None:
    files = sorted(path for root in ROOTS for path in (ROOT / root).rglob("*.py"))
    found = list(pairs_of((path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")) for path in files))
    rows = [f"{first}:{here} ~ {second}:{there}, {length} lines" for first, here, second, there, length in found]
    assert len(found) <= PAIRS, f"{len(found)} pairs, {PAIRS} allowed: give what is equal one home\n" + "\n".join(rows)
