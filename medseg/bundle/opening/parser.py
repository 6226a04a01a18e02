"""Open a bundle's configuration without running its code: everything is judged first, then only what is asked for is built."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from medseg.config import ABSENT, apply_overrides, look_up, read_config
from medseg.documents_yaml import read_yaml
from medseg.errors import BundleError, UntrustedBundleError, printable

from .expressions import MAX_LIVE, walk
from .own_packages import KEY
from .reader import DISABLED, Reader, Refusal, plain
from .stand_ins import Unused


def check_config(config: Mapping[str, Any]) -> list[Refusal]:
    """Everything in a configuration that needs `--trust`; empty when it opens without. Nothing is run or imported."""
    refusals: dict[str, Refusal] = {}
    if config.get(KEY):
        refusals[KEY] = Refusal(KEY, str(config[KEY]), "is code that the bundle brings, which is not run without trust")
    try:
        reader = Reader(config, building=False)
        # counted before anything is judged: the first value holds all others, so judging it judges the whole file
        beyond = next(islice(walk(config, inert=reader.inert), MAX_LIVE + 1, None), None)
        if beyond is not None:
            others = f"comes after {MAX_LIVE} others: components, expressions and what holds them"
            raise Refusal(beyond[0], "...", others)
        for key, _ in walk(config, inert=reader.inert):
            try:
                if key:
                    reader.at(key)
            except Refusal as refusal:
                refusals.setdefault(refusal.key, refusal)
            if reader.clock.over:
                break
    except Refusal as refusal:
        refusals.setdefault(refusal.key, refusal)
    except RecursionError:
        refusals[""] = Refusal("the file", "...", "is nested too deeply")
    return list(refusals.values())


def refuse(file: Path, refusals: list[Refusal]) -> None:
    """Raise for the first refusal; the message is one line.

    Raises:
        UntrustedBundleError: there is one.
    """
    if refusals:
        more = f" (and {len(refusals) - 1} more)" if len(refusals) > 1 else ""
        raise UntrustedBundleError(
            f"{file}: refused, {refusals[0]}{more}. Nothing was run. Read the bundle, then give --trust to run it as it is"
        )


class SafeConfig:
    """A checked configuration; values and components by id, built on demand.

    Args:
        raw: the merged and overridden configuration.
        source: where it came from, for messages.
    """

    def __init__(self, raw: dict[str, Any], *, source: str = "configuration") -> None:
        self.raw = raw
        self.source = source
        self._reader = self._new_reader()

    def _new_reader(self) -> Reader:
        return Reader(self.raw, building=True, source=self.source)

    def __contains__(self, key: str) -> bool:
        return look_up(self.raw, key) is not ABSENT

    def get(self, key: str) -> Any:
        """The value or component at an id, references resolved; the same object on each call.

        Raises:
            BundleError: no such id, or the component cannot be built.
            UntrustedBundleError: it is not allowed, or medseg does not do it.
        """
        return self._take(self._reader, key)

    def build(self, key: str) -> Any:
        """As `get`, but built anew."""
        return self._take(self._new_reader(), key)

    def _take(self, reader: Reader, key: str) -> object:
        if key not in self:
            raise BundleError(f"{self.source}: has no {key!r}")
        try:
            value = plain(reader.at(key))
        except Refusal as refusal:
            raise UntrustedBundleError(f"{self.source}: refused, {refusal}") from refusal
        except BundleError as error:
            if str(error).isprintable():
                raise
            raise BundleError(printable(str(error))) from error
        except RecursionError as error:
            raise UntrustedBundleError(f"{self.source}: refused, {key}: is nested too deeply") from error
        if isinstance(value, Unused):
            raise UntrustedBundleError(
                f"{self.source}: {key}: {value.target!r} is not done by medseg itself; "
                "use `python -m monai.bundle run` if you trust the bundle"
            )
        return None if value is DISABLED else value


def _read_yaml(file: Path) -> dict[str, Any]:
    """A YAML configuration as some bundles have it; plain values only, a tag is refused.

    Raises:
        UntrustedBundleError: a tag that would build a Python object.
        ConfigError, BundleError: not readable, or no table.
    """
    content = read_yaml(file)
    if not isinstance(content, dict):
        raise BundleError(f"{file}: holds a {type(content).__name__}, expected an object")
    return content


def read_file(file: Path) -> dict[str, Any]:
    """One configuration file, JSON or YAML, as plain values."""
    return read_config([file]) if file.suffix == ".json" else _read_yaml(file)


def open_config(
    file: Path, *, bundle_root: Path | None = None, overrides: Mapping[str, Any] | None = None
) -> SafeConfig:
    """Read, override and check one configuration file of a bundle; with trust, see `opening.trusted`.

    Args:
        file: configs/NAME.json.
        bundle_root: set as `bundle_root`, so that paths in the file hold wherever we are.
        overrides: `key::path` -> value, checked against the file, see `medseg.config.apply_overrides`.

    Raises:
        ConfigError: not readable, or an override names an unknown key.
        UntrustedBundleError: something in it is not allowed.
    """
    config = read_file(file)
    if overrides:
        refuse(file, check_config(config))  # before an override looks up what a target takes
        config = apply_overrides(config, overrides)
    if bundle_root is not None:
        config["bundle_root"] = str(bundle_root)
    return checked_config(config, file)


def checked_config(config: dict[str, Any], file: Path) -> SafeConfig:
    """A configuration that was read already, after it was judged; `file` is named in messages.

    Raises:
        UntrustedBundleError: something in it is not allowed.
    """
    refuse(file, check_config(config))
    return SafeConfig(config, source=str(file))
