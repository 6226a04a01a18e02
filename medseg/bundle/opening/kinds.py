"""Kinds of argument: what a component of an untrusted bundle may be given. A kind says what it expects and accepts values.

Values are data (see bounded.py) or `Made`: what a component or a form gave, known by its role. Texts are accepted only as
words of a closed list, as keys of the data dictionary, or where a target shows them and does nothing else with them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

LATER = "later"  # role of what is not known before it is built: a reference that leads nowhere
MAX_NUMBER = 1e9
MAX_LIST = 4096
MAX_SIZE = 4096  # of what a network is made of: channels, layers, extents
MAX_SIZES = 64
MAX_COUNT = 1024  # of processes, machines and devices


@dataclass(frozen=True)
class Made:
    """What a component or a form gave.

    Args:
        role: what it may be used as.
        value: the object; None while a file is only judged.
    """

    role: str
    value: Any = None


@dataclass(frozen=True)
class Kind:
    """What an argument may be.

    Args:
        says: what is expected, for messages.
        accepts: whether a value is that; the second argument is the whole file.
    """

    says: str
    accepts: Callable[[Any, Mapping[str, Any]], bool]

    def takes(self, value: object, config: Mapping[str, Any]) -> bool:
        """Whether a value may be given: None always may, and so does what is not known yet."""
        return value is None or (isinstance(value, Made) and value.role == LATER) or self.accepts(value, config)


def _each(value: object, test: Callable[[Any], bool], depth: int = 3, most: int = MAX_LIST) -> bool:
    if isinstance(value, (list, tuple)):
        return depth > 0 and len(value) <= most and all(_each(item, test, depth - 1, most) for item in value)
    return value is None or (isinstance(value, Made) and value.role == LATER) or test(value)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= MAX_NUMBER and math.isfinite(value)


def _is_word(names: frozenset[str]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value.lower() in names


def words(*names: str) -> Kind:
    """One of these words in any case, or a list of them."""
    known = frozenset(name.lower() for name in names)
    return Kind("one of " + ", ".join(names), lambda value, _: _each(value, _is_word(known), 1))


def either(first: Kind, second: Kind) -> Kind:
    """What one of two kinds accepts."""
    return Kind(
        f"{first.says}, or {second.says}",
        lambda value, config: first.accepts(value, config) or second.accepts(value, config),
    )


def parts(*roles: str) -> Kind:
    """A component or a form of one of these roles, or a list of them."""
    return Kind(
        "a component that is a " + " or ".join(roles),
        lambda value, _: _each(value, lambda item: isinstance(item, Made) and item.role in roles, 1),
    )


def setting(name: str) -> Kind:
    """What the top of the file has under this name, which the user's command sets."""
    return Kind(f"@{name}", lambda value, config: value == config.get(name))


def _is_data(value: object, depth: int = 6) -> bool:
    if isinstance(value, Made):
        return value.role == LATER
    if isinstance(value, (list, tuple)):
        return depth > 0 and all(_is_data(item, depth - 1) for item in value)
    if isinstance(value, dict):
        return depth > 0 and all(isinstance(key, str) and _is_data(item, depth - 1) for key, item in value.items())
    return type(value) in (int, float, str, bool, type(None))


def _is_layer(value: object) -> bool:
    if isinstance(value, (list, tuple)) and len(value) == 2 and isinstance(value[1], dict):
        named = {key: item for key, item in value[1].items() if key in LAYER_SETTINGS}
        return (
            _is_layer_word(value[0]) and named == value[1] and all(_each(item, _is_plain, 1) for item in named.values())
        )
    return _is_layer_word(value)


def _is_plain(value: object) -> bool:
    return isinstance(value, bool) or _is_number(value)


LAYER_SETTINGS = frozenset(
    {"affine", "alpha", "dim", "eps", "inplace", "init", "momentum", "negative_slope", "num_groups", "num_parameters",
     "p", "track_running_stats"}
)  # fmt: skip
LAYER_WORDS = frozenset(
    {"batch", "instance", "group", "layer", "localresponse", "syncbatch", "elu", "relu", "leakyrelu", "prelu", "relu6",
     "selu", "celu", "gelu", "sigmoid", "tanh", "softmax", "logsoftmax", "swish", "memswish", "mish", "geglu"}
)  # fmt: skip
_is_layer_word = _is_word(LAYER_WORDS)
KEY = re.compile(r"[\w\-. ]{1,100}")
WORD = re.compile(r"[A-Za-z0-9_.\-+]{0,100}")
TYPES = (
    "float16", "bfloat16", "float32", "float64", "uint8", "uint16", "uint32", "int8", "int16", "int32", "int64", "bool",
)  # fmt: skip

NUMBER = Kind("numbers", lambda value, _: _each(value, _is_number))
SIZE = Kind(
    f"numbers up to {MAX_SIZE}, at most {MAX_SIZES} in a list",
    lambda value, _: _each(value, lambda item: _is_number(item) and abs(item) <= MAX_SIZE, most=MAX_SIZES),
)
COUNT = Kind(f"a whole number up to {MAX_COUNT}", lambda value, _: type(value) is int and -1 <= value <= MAX_COUNT)
FLAG = Kind("true or false", lambda value, _: _each(value, lambda item: isinstance(item, bool), 1))
FALSE = Kind("false: nothing is downloaded", lambda value, _: value is False)
KEYS = Kind(
    "keys of the data",
    lambda value, _: _each(value, lambda item: isinstance(item, str) and bool(KEY.fullmatch(item)), 1),
)
NAME = Kind("a name", lambda value, _: isinstance(value, str) and bool(WORD.fullmatch(value)))
TEXT = Kind("a text", lambda value, _: isinstance(value, str) and len(value) <= 4096)
DATA = Kind("numbers, texts, and lists and tables of them", lambda value, _: _is_data(value))
LAYER = Kind("a layer's word, alone or with its settings", lambda value, _: _is_layer(value))
DTYPE = either(parts("dtype"), words(*TYPES))
DEVICE = either(
    parts("device"),
    Kind(
        "cpu, cuda or cuda:N",
        lambda value, _: isinstance(value, str) and bool(re.fullmatch(r"cpu|cuda(:\d{1,2})?", value)),
    ),
)
NOTHING = Kind("an empty list", lambda value, _: isinstance(value, (list, tuple)) and not value)
ANYTHING = Kind("anything, since it is not used", lambda value, _: True)
