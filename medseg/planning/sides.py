"""Do labels tell left from right? Then a mirror image would teach the network the wrong side."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

# what stands for a side in a name: (left, right, a word of its own that is a side even without its counterpart)
_WRITTEN = (
    ("left", "right", True), ("lft", "rgt", False), ("lh", "rh", True), ("lt", "rt", False), ("l", "r", True),
    ("links", "rechts", True), ("linke", "rechte", True), ("linker", "rechter", True), ("linkes", "rechtes", True),
    ("li", "re", False), ("gauche", "droite", True), ("gauche", "droit", True), ("g", "d", False),
    ("izquierdo", "derecho", True), ("izquierda", "derecha", True), ("izq", "der", False), ("izq", "dcho", False),
    ("izq", "dcha", False), ("izdo", "dcho", True), ("izda", "dcha", True), ("sinistra", "destra", True),
    ("sinistro", "destro", True), ("sinistr", "destr", False), ("sx", "dx", True), ("sn", "dx", False),
    ("sinister", "dexter", True), ("sinistrum", "dextrum", True), ("sinistr", "dextr", False), ("sin", "dex", False),
    ("esquerdo", "direito", True), ("esquerda", "direita", True), ("esq", "dir", False), ("esquerre", "dret", True),
    ("esquerra", "dreta", True), ("stang", "drept", True), ("stang", "dreapt", False), ("stanga", "dreapta", True),
    ("venstre", "høyre", True), ("venstre", "højre", True), ("vänster", "höger", True), ("vänstra", "högra", True),
    ("vasen", "oikea", True), ("bal", "jobb", False), ("sol", "sağ", False), ("lewa", "prawa", True), ("lewe", "prawe", True),
    ("lewy", "prawy", True), ("lew", "praw", False), ("levá", "pravá", True), ("levý", "pravý", True), ("levé", "pravé", True),
    ("lev", "prav", False), ("ľav", "prav", False), ("lijev", "desn", False), ("lev", "desn", False),
    ("левый", "правый", True), ("левая", "правая", True), ("левое", "правое", True), ("лев", "прав", False),
    ("лів", "прав", False), ("αριστερ", "δεξι", False), ("kiri", "kanan", True), ("trái", "phải", True),
    ("左", "右", True), ("ひだり", "みぎ", True), ("왼", "오른", False), ("좌", "우", False), ("يسر", "يمن", False),
    ("يسرى", "يمنى", True), ("اليسرى", "اليمنى", True), ("أيسر", "أيمن", True), ("چپ", "راست", True), ("שמאל", "ימין", True),
    ("שמאלית", "ימנית", True), ("שמאלי", "ימני", True), ("बायां", "दायां", True), ("बाएं", "दाएं", True), ("ซ้าย", "ขวา", True),
)  # fmt: skip
# parts of the heart are called by a side and have no mirror image on the other: alone they are organs like any other
_HEART = re.compile(r"atri|auric|append|heart|cardi|coronar|ventric")
# of a label's shape, where A stands for any capital, a for any other letter and 0 for any digit
_WORDS = re.compile(r"A+(?=Aa)|A?a+0*|A+0*|0+")
# so long, or so unlike anything else, that they count inside of a word too
_ANYWHERE = {"left", "يسر"}
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


def _plain(text: str) -> str:
    """Without marks on letters, which people leave out or write as letters of their own."""
    letters = (
        unicodedata.normalize("NFKD", text).replace("ø", "o").replace("Ø", "O").replace("ł", "l").replace("Ł", "L")
    )
    return "".join(letter for letter in letters if not unicodedata.category(letter).startswith("M"))


_SIDES = [(_plain(left), _plain(right), whole) for left, right, whole in _WRITTEN]
_ALONE = {word for left, right, whole in _SIDES if whole for word in (left, right)}


def _words(label: str) -> list[str]:
    """Words of a label in small letters of any script: split at signs, and where small letters are followed by a capital."""
    label = _plain(label)
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
            if left in _ANYWHERE and left in word:
                yield f"{before}{word.replace(left, right)}{after}"


def _is_of_heart(words: Sequence[str]) -> bool:
    text = " ".join(words)
    return "lateral" not in text and bool(_HEART.search(text))
