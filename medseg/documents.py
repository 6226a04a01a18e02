"""JSON files that a stranger may have made (YAML: documents_yaml.py): plain values within limits, or one line that names the file.

Both parsers of the wild let a small file cost a great deal (aliases that multiply, brackets that nest, numbers of many
digits) and let through what JSON has no word for (NaN, a key twice, half a surrogate pair). Here each of these ends
before or right after parsing, so that nobody further in has to think of it.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ConfigError

if TYPE_CHECKING:
    from .types import FilePath

MAX_BYTES = 64 << 20
MAX_DEPTH = 64  # the deepest bundle file we know has 14
MAX_NODES = 1_000_000
MAX_DIGITS = 40
MAX_FLOAT = 400  # characters of a number with a point

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


class UnopenedFileError(ConfigError, OSError):
    """The file is there and cannot be opened (rights, a folder in its place, an input error)."""

    def __str__(self) -> str:  # OSError would put its number in place of the sentence
        return str(self.args[0])


class MissingFileError(UnopenedFileError, FileNotFoundError):
    """There is no such file."""


def read_json(file: FilePath) -> Any:
    """What a JSON file holds. Every JSON file that medseg reads passes here.

    A byte order mark of UTF-8, as some editors write, is skipped.

    Raises:
        MissingFileError, UnopenedFileError: it cannot be read; both are OSError and ConfigError.
        ConfigError: it is no JSON, no UTF-8, or beyond a limit of this file; one line that names the file.
    """
    path = Path(file)
    return parse_json(text_of(path, MAX_BYTES), str(path))


def parse_json(text: str, whose: str) -> object:
    """Parse JSON text within the limits.

    Args:
        text: the text.
        whose: how messages begin, such as the file's path.

    Raises:
        ConfigError: no JSON, or beyond a limit.
    """
    if not text.strip():
        raise ConfigError(f"{whose}: is not valid JSON: the file is empty; write it anew or restore it")
    # an upper bound of the number of values, counted before any of them is made
    if text.count(",") + text.count("[") + text.count("{") >= MAX_NODES:
        raise ConfigError(f"{whose}: holds more than {MAX_NODES} values; no file of ours comes near that")
    try:
        value = json.loads(
            text, parse_int=_integer, parse_float=_number, parse_constant=_constant, object_pairs_hook=_object
        )
    except json.JSONDecodeError as error:
        place = f"{error.msg} at line {error.lineno}, column {error.colno}"
        raise ConfigError(f"{whose}: is not valid JSON: {place}.") from None
    except RecursionError:
        raise ConfigError(too_deep(whose)) from None
    except ValueError as error:
        raise ConfigError(f"{whose}: {error}") from None
    _limit_depth(value, whose)
    if "\\u" in text:  # the only way in for characters that no text has
        _refuse_odd_characters(value, whose)
    return value


def text_of(path: Path, limit: int) -> str:
    """The text of a UTF-8 file of at most `limit` bytes.

    Raises:
        MissingFileError, UnopenedFileError: it cannot be read.
        ConfigError: longer, or no UTF-8.
    """
    content = _content(path, limit)
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ConfigError(f"{path}: is not UTF-8 text but UTF-16; save it as UTF-8.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {error.start}); save it as UTF-8.") from None


def _content(path: Path, limit: int) -> bytes:
    """Bytes of a regular file of bounded size; a pipe or a device is never waited for."""
    try:
        _refuse_kind(path, path.stat().st_mode)
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(descriptor, "rb") as stream:
            found = os.fstat(descriptor)
            _refuse_kind(path, found.st_mode)
            if found.st_size > limit:
                raise ConfigError(f"{path}: has {found.st_size} bytes, expected at most {limit}; is it another file?")
            content = stream.read(limit + 1)
    except UnopenedFileError:
        raise
    except OSError as error:
        kind = MissingFileError if isinstance(error, (FileNotFoundError, NotADirectoryError)) else UnopenedFileError
        raise _os_error(kind, path, error.strerror or str(error), error.errno) from None
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{str(path)!r}: is no path: {error}") from None  # a NUL in the name
    if len(content) > limit:
        raise ConfigError(f"{path}: has more than {limit} bytes; is it another file?")
    return content


def _refuse_kind(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise _os_error(UnopenedFileError, path, f"is {_KINDS.get(stat.S_IFMT(mode), 'no plain file')}", None)


def _os_error(kind: type[UnopenedFileError], path: Path, why: str, number: int | None) -> UnopenedFileError:
    error = kind(f"{path}: cannot be read: {why}; expected a file")
    error.strerror, error.errno = why, number
    return error


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"holds a number of {len(text)} digits, expected at most {MAX_DIGITS}")
    return int(text)


def _number(text: str) -> float:
    value = float(text) if len(text) <= MAX_FLOAT else math.inf
    if not math.isfinite(value):
        raise ValueError(f"holds the number {text[:20]}, which is beyond double precision")
    return value


def _constant(text: str) -> float:
    raise ValueError(f"is not valid JSON: it holds {text}; expected a finite number or null")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"holds the key {twice[:60]!r} twice; keep one of them")
    return table


def _children(node: Any) -> Iterator[Any]:
    yield from node.values() if isinstance(node, dict) else node


def _limit_depth(value: object, whose: str) -> None:
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(MAX_DEPTH):
        level = [child for node in level for child in _children(node) if isinstance(child, (dict, list))]
        if not level:
            return
    raise ConfigError(too_deep(whose))


def too_deep(whose: str) -> str:
    """The line for a file whose nesting ends nowhere near."""
    return f"{whose}: is nested too deeply, expected at most {MAX_DEPTH} levels of lists and objects"


def _refuse_odd_characters(value: object, whose: str) -> None:
    """Half a surrogate pair cannot be written or shown, and a NUL ends every path and name."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{whose}: holds half a surrogate pair (\\ud8..), which is no character") from None
    if "\\u0000" in text and _holds_nul(value):
        raise ConfigError(f"{whose}: holds the character NUL (\\u0000), which no name or path may")


def _holds_nul(value: object) -> bool:
    stack = [value]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            stack += [*node, *node.values()]
        elif isinstance(node, list):
            stack += node
        elif isinstance(node, str) and "\0" in node:
            return True
    return False


def breaks(value: object, schema: Mapping[str, Any]) -> Iterator[Any]:
    """Every break of a JSON schema, as jsonschema's errors; a whole number is an int, not 2.0, and never true.

    Rules that bound a list or a table stand before those that enter it, so that whoever stops at the first is quick.
    """
    import jsonschema

    base = jsonschema.Draft201909Validator
    whole = base.TYPE_CHECKER.redefine("integer", lambda _, node: isinstance(node, int) and not isinstance(node, bool))
    return jsonschema.validators.extend(base, type_checker=whole)(schema).iter_errors(value)


def sentence(error: Any) -> str:
    """One break as `where: what`, short whatever the value was."""
    where = "::".join(str(step) for step in error.absolute_path) or "top level"
    message = " ".join(str(error.message).split())
    return f"{where[-100:]}: {message if len(message) <= 160 else message[:80] + ' ... ' + message[-75:]}"


def first_break(value: object, schema: Mapping[str, Any]) -> str | None:
    """The first break of a schema as a sentence, or None."""
    return next((sentence(error) for error in breaks(value, schema)), None)
