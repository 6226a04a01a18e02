"""Small edits of bytes, decided by a random generator: the moves of every fuzzer, plus numbers that headers fear."""

from __future__ import annotations

import random
import struct

INTERESTING = [
    *(struct.pack(f"{order}h", value) for order in "<>" for value in (0, -1, 1, 32767, -32768, 3, 7)),
    *(struct.pack(f"{order}i", value) for order in "<>" for value in (0, -1, 2**31 - 1, -(2**31), 348, 540, 65536)),
    *(
        struct.pack(f"{order}f", value)
        for order in "<>"
        for value in (0.0, float("nan"), float("inf"), -1.0, 1e30, 1e-30)
    ),
    *(struct.pack(f"{order}q", value) for order in "<>" for value in (-1, 2**62, 0)),
    *(
        text.encode()
        for text in (
            "nan",
            "-1",
            "99999999999",
            "1e400",
            "none",
            "(",
            ")",
            '"',
            "\n",
            "=",
            ":",
            "0x",
            "[[[[",
            "{",
            "é",
            "@",
            "$",
        )
    ),
]


def mutate(content: bytes, random_source: random.Random, *, most: int = 6) -> bytes:
    """One to `most` edits: flip, overwrite, insert, delete, copy within, cut."""
    data = bytearray(content)
    # every second input keeps its length: a header whose numbers are wrong, not its places
    moves = 3 if random_source.random() < 0.5 else 7
    for _ in range(random_source.randint(1, most if moves == 7 else 2)):
        if not data:
            return bytes(random_source.randbytes(random_source.randint(0, 16)))
        # headers stand at the beginning: half of the edits go there
        span = min(len(data), 600) if random_source.random() < 0.5 else len(data)
        where = random_source.randrange(span)
        move = random_source.randrange(moves)
        if move == 0:
            data[where] ^= 1 << random_source.randrange(8)
        elif move == 1:
            data[where] = random_source.randrange(256)
        elif move in (2, 3):
            piece = random_source.choice(INTERESTING)
            data[where : where + (len(piece) if move == 2 else 0)] = piece
        elif move == 4:
            del data[where : where + random_source.randint(1, 32)]
        elif move == 5:
            other = random_source.randrange(len(data))
            data[where:where] = data[other : other + random_source.randint(1, 64)]
        else:
            del data[where if random_source.random() < 0.2 else max(where, len(data) - 64) :]
    return bytes(data)
