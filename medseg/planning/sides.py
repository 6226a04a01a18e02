"""Do labels tell left from right? Then a mirror image would teach the network the wrong side."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

# what stands for a side in a name: (left, right, a word of its own that is a side even without its counterpart)
_SIDES = (
    ("left", "right", True), ("lft", "rgt", False), ("lh", "rh", True), ("lt", "rt", False), ("l", "r", True),
    ("links", "rechts", True), ("linke", "rechte", True), ("linker", "rechter", True), ("li", "re", False),
    ("gauche", "droite", True), ("gauche", "droit", False), ("izquierdo", "derecho", True), ("izquierda", "derecha", True),
    ("izq", "der", False), ("sinistra", "destra", True), ("sinistro", "destro", True), ("sinister", "dexter", True),
    ("sinistra", "dextra", False), ("sin", "dex", False), ("sn", "dx", False), ("esquerdo", "direito", True),
    ("esquerda", "direita", True), ("esq", "dir", False), ("venstre", "høyre", True), ("venstre", "højre", True),
    ("vänster", "höger", True), ("vänstra", "högra", True), ("lewa", "prawa", True), ("lewe", "prawe", True),
    ("lewy", "prawy", True), ("левый", "правый", True), ("левая", "правая", True), ("левое", "правое", True), ("左", "右", True),
)  # fmt: skip
# parts of the heart are called by a side and have no mirror image on the other: alone they are organs like any other
_HEART = re.compile(r"atri|auric|append|heart|cardi|coronar|ventric")
# of a label's shape, where A stands for any capital, a for any other letter and 0 for any digit
_WORDS = re.compile(r"A+(?=Aa)|A?a+0*|A+0*|0+")
# words of one piece that only look as if they began or ended with a side
_NO_SIDE = re.compile(r"leftover|bright|upright|cleft|wright|fright|rightmost|leftmost")


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
    for label, words in spelled.items():
        if any(map(_is_side, words)) and not _is_of_heart(words):
            return label
    return None


def _is_side(word: str) -> bool:
    """Whether one word of a label says a side: by itself, or before or behind a structure in one piece, such as `leftkidney`."""
    if word in _ALONE:
        return True
    joined = any(word.startswith(side) or word.endswith(side) for side in ("left", "right", "左", "右"))
    return joined and not _NO_SIDE.search(word)


_ALONE = {word for left, right, whole in _SIDES if whole for word in (left, right)}


def _words(label: str) -> list[str]:
    """Words of a label in small letters of any script: split at signs, and where small letters are followed by a capital."""
    label = unicodedata.normalize("NFC", label)
    shape = "".join(
        "A" if letter.isupper() else "a" if letter.isalpha() else "0" if letter.isdigit() else " " for letter in label
    )
    return [label[found.start() : found.end()].lower() for found in _WORDS.finditer(shape)] or [label.lower()]


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
