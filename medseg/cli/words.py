"""The words of a command line in any order: options and inputs mixed, faults named before what is missing."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from medseg.errors import ConfigError, printable

EXIT_USAGE = 2


class UsageError(ConfigError):
    """Words that make no command; exit code 2."""


_NUMBER = re.compile(r"-\.?\d")
_KINDS = {"int": "a whole number", "float": "a number"}

# Words that people bring along from other programs, and what says the same here.
ELSEWHERE = {
    "--gpu": "--device cuda",
    "--cuda": "--device cuda",
    "--cpu": "--device cpu",
    "--epochs": "max_epochs=N",
    "--max-epochs": "max_epochs=N",
    "--lr": "train::module::learning_rate=X",
    "--learning-rate": "train::module::learning_rate=X",
    "--batch-size": "batch_size=N",
    "--patch-size": "roi_size=[X,Y,Z]",
    "--seed": "seed=N",
    "--verbose": "MEDSEG_DEBUG=1 before the command",
    "--model": "the bundle as a word of its own",
    "--bundle": "the bundle as a word of its own",
    "--pred": "--prediction DIR",
    "--ref": "--reference DIR",
    "--gt": "--reference DIR",
    "--name": "--output BUNDLE",
    "--tta": "--mirror xyz",
}


def at_least_one(text: str) -> int:
    """The number of an option that counts something; what it refuses becomes one line of `Parser.error`."""
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1; leave the option out for all there are")
    return number


class Parser(argparse.ArgumentParser):
    """One line for a usage error, with the nearest verb or option."""

    def error(self, message: str) -> NoReturn:
        match = re.fullmatch(r"argument (.+): invalid (int|float) value: (.+)", message)
        if match:
            message = f"{match[1]}: {match[3]} is not {_KINDS[match[2]]}"
        match = re.fullmatch(r"argument ([A-Z]+): invalid choice: '(.*)' \(choose from .*\)", message, re.DOTALL)
        if match:
            message = f"unknown {match[1].lower()} {match[2]!r}.{_hint(match[2], choices_of(self))}"
        required = "the following arguments are required: "
        if message.startswith(required):  # argparse counts words of which there may be none as well
            none_needed = {str(action.metavar) for action in self._actions if action.nargs == "*"}
            names = message.removeprefix(required).split(", ")
            message = required + ", ".join(name for name in names if name not in none_needed)
        print(f"{self.prog}: {printable(message)} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(EXIT_USAGE)


def _hint(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=2, cutoff=0.5)
    return f" Did you mean {' or '.join(close)}?" if close else f" Known: {', '.join(known)}."


def choices_of(parser: argparse.ArgumentParser) -> list[str]:
    """The verbs or actions below a parser."""
    below = _below(parser)
    return [] if below is None else list(below.choices)


def _below(parser: argparse.ArgumentParser) -> argparse._SubParsersAction[argparse.ArgumentParser] | None:
    return next((action for action in parser._actions if isinstance(action, argparse._SubParsersAction)), None)


def parse_words(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """Parse a command line; options may stand before the verb, inputs after options, `key::path=value` anywhere.

    Raises:
        SystemExit: 2 after one line that names the fault, 0 after help.
    """
    found: dict[str, str] = {}
    rest = list(words)
    while (below := _below(parser)) is not None:
        bare = [i for i, word in enumerate(rest) if not word.startswith("-")]
        # behind an option the first bare word may be its value
        known = [i for i in bare if rest[i] in below.choices] if bare and bare[0] > 0 else bare
        place = next(iter(known or bare), None)
        if place is None:
            if not any(word in parser._option_string_actions for word in rest):
                refuse_unknown(parser, rest)
            parser.parse_args(rest)  # help, version, or nothing: argparse answers and leaves
            parser.error(f"no {str(below.metavar).lower()} is given; one of {', '.join(below.choices)}")
        if rest[place] not in below.choices:
            parser.error(
                f"unknown {str(below.metavar).lower()} {rest[place]!r}.{_hint(rest[place], list(below.choices))}"
            )
        found[below.dest] = rest.pop(place)
        parser = below.choices[found[below.dest]]
    rest = _with_negative_values(parser, rest)
    refuse_unknown(parser, rest)
    arguments, left = _mixed(parser, rest)
    if left:
        parser.error(_unexpected(parser, left))
    for name, value in found.items():
        setattr(arguments, name, value)
    return arguments


def _with_negative_values(parser: argparse.ArgumentParser, words: Sequence[str]) -> list[str]:
    """`--budget -1h` as one word, so that the option itself says what is wrong with its value."""
    joined: list[str] = []
    for word in words:
        option = parser._option_string_actions.get(joined[-1]) if joined else None
        if option is not None and option.nargs is None and joined[-1].startswith("--") and re.match(r"-\d", word):
            joined[-1] = f"{joined[-1]}={word}"
        else:
            joined.append(word)
    return joined


def _mixed(parser: argparse.ArgumentParser, words: list[str]) -> tuple[argparse.Namespace, list[str]]:
    return parser.parse_known_intermixed_args(words)


def refuse_unknown(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """A mistyped option is the fault, whatever else is missing because of it."""
    known = parser._option_string_actions
    for word in words:
        if word == "--":
            return
        if len(word) < 2 or not word.startswith("-") or _NUMBER.match(word):
            continue
        name = word.split("=", 1)[0]
        if name in known or (not word.startswith("--") and word[:2] in known):
            continue
        elsewhere = ELSEWHERE.get(name, "")
        if elsewhere and (elsewhere.split()[0] in known or not elsewhere.startswith("--")):
            parser.error(f"unknown option {name}. Here it is {elsewhere}")
        options = sorted(option for option in known if option.startswith("--"))
        close = difflib.get_close_matches(name, options, n=2, cutoff=0.5)
        parser.error(f"unknown option {name}." + (f" Did you mean {' or '.join(close)}?" if close else ""))


def _unexpected(parser: argparse.ArgumentParser, left: Sequence[str]) -> str:
    """What to do with words that stand alone where only options are known."""
    required = [action.option_strings[-1] for action in parser._actions if action.required and action.option_strings]
    if required:
        written = " ".join(f"{option} {word}" for option, word in zip(required, left, strict=False))
        return f"unexpected word {left[0]!r}: every input has an option here; write {written}"
    named = [
        f"{one.option_strings[-1]} {one.metavar}" for one in parser._actions if one.option_strings and one.metavar
    ][:2]
    such = f": every input has an option here, such as {', '.join(named)}" if named else ""
    return f"unexpected word {left[0]!r}{such}"


def bundle_first(bundle: str | None, inputs: Sequence[str]) -> tuple[str | None, list[str]]:
    """Which word is the bundle, where it does not stand first: the only one that is a bundle."""
    from medseg.bundle.catalogue import known_bundles
    from medseg.layout import is_bundle

    known = known_bundles()

    def right(word: str) -> bool:
        path = Path(word)
        return word in known or (path.is_dir() and is_bundle(path)) or (path.suffix == ".zip" and path.is_file())

    if bundle is not None and right(bundle):
        return bundle, list(inputs)
    found = [word for word in inputs if right(word)]
    if len(found) != 1:
        return bundle, list(inputs)
    rest = [word for word in inputs if word != found[0]]
    return found[0], rest if bundle is None else [bundle, *rest]
