"""Do labels tell left from right? Then a mirror image would teach the network the wrong side."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

# what stands for a side in a name: (left, right, a word of its own that is a side even without its counterpart)
_SIDES = (
    ("left", "right", True), ("lft", "rgt", False), ("lh", "rh", True), ("lt", "rt", False), ("l", "r", True),
    ("links", "rechts", True), ("linke", "rechte", False), ("linker", "rechter", False), ("li", "re", False),
    ("gauche", "droite", True), ("gauche", "droit", False), ("izquierdo", "derecho", True), ("izquierda", "derecha", True),
    ("izq", "der", False), ("sinistra", "destra", True), ("sinistro", "destro", True), ("sinister", "dexter", True),
    ("sinistra", "dextra", False), ("sin", "dex", False), ("sn", "dx", False),
)  # fmt: skip
# parts of the heart are called by a side and have no mirror image on the other: alone they are organs like any other
_HEART = re.compile(r"atri|auric|append|heart|cardi|coronar|ventric")
_WORDS = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-zß-öø-ÿ]+[0-9]*|[A-Z]+[0-9]*|[0-9]+")


def tells_sides(labels: Sequence[str]) -> str | None:
    """The first label that makes the side matter, or None.

    Either another label differs from it by the side only, however that is spelled (LeftKidney, kidney_lt, LKidney, lungL,
    ctx-lh-insula), or it names a side by itself and is no part of the heart: its counterpart is background then.

    Example:
        >>> tells_sides(["liver", "LKidney", "RKidney"]), tells_sides(["left atrium"])
        ('LKidney', None)
    """
    spelled = {label: _words(label) for label in labels}
    joined = {"".join(words) for words in spelled.values()}
    for label, words in spelled.items():
        if any(other in joined for other in _other_sides(words)):
            return label
    alone = {word for left, right, whole in _SIDES if whole for word in (left, right)}
    for label, words in spelled.items():
        if alone & set(words) and not _is_of_heart(words):
            return label
    return None


def _words(label: str) -> list[str]:
    """Words of a label in small letters: split at signs, and where small letters are followed by a capital."""
    return [word.lower() for word in _WORDS.findall(label)] or [label.lower()]


def _other_sides(words: Sequence[str]) -> Iterator[str]:
    """The label with one mention of the left made the right, joined: every way to read it."""
    for number, word in enumerate(words):
        before, after = "".join(words[:number]), "".join(words[number + 1 :])
        for left, right, _ in _SIDES:
            if word.startswith(left):
                yield f"{before}{right}{word[len(left) :]}{after}"
            if word.endswith(left):
                yield f"{before}{word[: -len(left)]}{right}{after}"
            if left == "left" and left in word:
                yield f"{before}{word.replace(left, right)}{after}"


def _is_of_heart(words: Sequence[str]) -> bool:
    text = " ".join(words)
    return "lateral" not in text and bool(_HEART.search(text))
