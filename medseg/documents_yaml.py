"""YAML as far as a configuration needs it: text, numbers, booleans, lists and tables; nothing that multiplies or repeats."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from .documents import MAX_DEPTH, MAX_DIGITS, text_of, too_deep
from .errors import ConfigError, UntrustedBundleError
from .types import FilePath

MAX_YAML_BYTES = 512 << 10  # YAML is read a hundred times slower than JSON, and the largest we met has 40 kB
MAX_YAML_NODES = 50_000
SHOWN = 160  # characters of another library's message


def read_yaml(file: FilePath) -> object:
    """What a YAML file holds, as plain JSON values; aliases are written out, dates stay text.

    Raises:
        UntrustedBundleError: a tag that would build a Python object.
        MissingFileError, UnopenedFileError, ConfigError: as `medseg.config.read_json`.
    """
    whose = str(file)
    text = text_of(Path(file), MAX_YAML_BYTES)
    try:
        refuse_events(yaml.parse(text, Loader=PlainLoader), whose)
        return plain(yaml.load(text, Loader=PlainLoader), whose)
    except yaml.constructor.ConstructorError as error:
        raise UntrustedBundleError(f"{whose}: refused, {str(error.problem)[:SHOWN]}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{whose}: cannot be read as YAML: {' '.join(str(error).split())[:SHOWN]}") from None
    except RecursionError:
        raise ConfigError(too_deep(whose)) from None
    except ConfigError:
        raise
    except (ValueError, OverflowError, TypeError, LookupError) as error:  # of a scalar's constructor, ours included
        raise ConfigError(f"{whose}: cannot be read as YAML: {str(error)[:SHOWN]}") from None


_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class PlainLoader(_Base):  # type: ignore[misc]
    """PyYAML's safe loader without dates and merge keys, and with one value for each key."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        table: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        if len(table) != len(node.value):
            most = Counter(str(key.value) for key, _ in node.value).most_common(1)[0][0]
            raise ValueError(f"the table at line {node.start_mark.line + 1} holds the key {most[:60]!r} twice")
        return table

    def flatten_mapping(self, node: Any) -> None:
        """Merge keys (`<<`) multiply like aliases do and read like data: refused."""
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                raise ValueError(f"line {key.start_mark.line + 1} merges tables by '<<'; write the keys out")


# a date is text here, as it would be in JSON; `=` is text too
PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, rule) for tag, rule in rules if tag not in ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:value")]
    for first, rules in _Base.yaml_implicit_resolvers.items()
}


def refuse_events(events: Iterable[Any], whose: str) -> None:
    """Count a document's nodes and their depth while it is scanned, before any object is made.

    Raises:
        ConfigError: too many, or too deep.
    """
    depth = documents = 0
    for count, event in enumerate(events):
        if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            depth += 1
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            depth -= 1
        documents += isinstance(event, yaml.DocumentStartEvent)
        if depth > MAX_DEPTH:
            raise ConfigError(f"{whose}: is nested too deeply, expected at most {MAX_DEPTH} levels of lists and tables")
        if count > MAX_YAML_NODES:
            raise ConfigError(f"{whose}: holds more than {MAX_YAML_NODES} values; write it as JSON")
        if isinstance(event, yaml.ScalarEvent) and "\0" in event.value:
            raise ConfigError(f"{whose}: holds the character NUL, which no name or path may")
    if documents > 1:
        raise ConfigError(f"{whose}: holds {documents} YAML documents, expected one")


def plain(value: object, whose: str) -> Any:
    """A copy in which every alias is written out, as long as that stays within the limits.

    Raises:
        ConfigError: an alias that holds itself, aliases that multiply beyond the limit, or a value that JSON lacks.
    """
    left = [MAX_YAML_NODES]

    def copy(node: object, depth: int) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise ConfigError(f"{whose}: its aliases stand for more than {MAX_YAML_NODES} values; write fewer out")
        if depth > MAX_DEPTH:
            raise ConfigError(f"{whose}: is nested too deeply, or an alias holds itself; at most {MAX_DEPTH} levels")
        if isinstance(node, dict):
            return {_key(key, whose): copy(child, depth + 1) for key, child in node.items()}
        if isinstance(node, list):
            return [copy(child, depth + 1) for child in node]
        return _scalar(node, whose)

    return copy(value, 0)


def _key(key: object, whose: str) -> str | int:
    if isinstance(key, bool) or not isinstance(key, (str, int)):
        raise ConfigError(f"{whose}: has the key {key!r}, expected text; write it in quotes")
    _scalar(key, whose)
    return key


def _scalar(node: object, whose: str) -> object:
    if isinstance(node, str):
        if not node.isascii():
            try:
                node.encode()
            except UnicodeEncodeError:
                raise ConfigError(f"{whose}: holds half a surrogate pair, which is no character") from None
    elif isinstance(node, float):
        if not math.isfinite(node):
            raise ConfigError(f"{whose}: holds {node}; expected a finite number or null")
    elif isinstance(node, int):
        if not isinstance(node, bool) and abs(node) >= 10**MAX_DIGITS:
            raise ConfigError(f"{whose}: holds a number of more than {MAX_DIGITS} digits")
    elif node is not None:
        raise ConfigError(f"{whose}: holds a {type(node).__name__}; expected text, numbers, lists and tables")
    return node
