"""Open a bundle's configuration without running its code: check everything first, then build only what is asked for.

`check_config` walks the whole file. A component must name an allowed target, an expression must lie in the grammar, a
macro may not reach into other files. Only then does anything get built, with MONAI's own parser, whose components and
expressions are replaced by ones that repeat both checks at the moment of use.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.config import ABSENT, apply_overrides, look_up, read_config
from medseg.documents_yaml import read_yaml
from medseg.errors import BundleError, UntrustedBundleError

from .grammar import GrammarError, check, imported_names, parse
from .interpreter import evaluate
from .targets import TargetError, check_component, resolve_target


@dataclass(frozen=True)
class Refusal:
    """One thing that a bundle may not do."""

    key: str
    what: str
    why: str

    def __str__(self) -> str:
        what = self.what if len(self.what) <= 120 else self.what[:117] + "..."
        return f"{self.key}: {what!r} {self.why}"


def walk(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    yield key, node
    if isinstance(node, Mapping):
        children: Any = node.items()
    elif isinstance(node, list):
        children = enumerate(node)
    else:
        return
    for step, child in children:
        yield from walk(child, f"{key}::{step}" if key else str(step))


def import_aliases(config: Mapping[str, Any]) -> dict[str, str]:
    """Local name -> full name, from every `$import` of a file; statements that are refused are left out here."""
    aliases: dict[str, str] = {}
    for _, node in walk(config):
        if isinstance(node, str) and node.startswith("$") and "import" in node:
            try:
                aliases.update(imported_names(parse(node[1:])))
            except GrammarError:
                continue
    return aliases


def check_config(config: Mapping[str, Any]) -> list[Refusal]:
    """Everything in a configuration that needs `--trust`; empty when it opens without. Nothing is run or imported."""
    aliases = import_aliases(config)
    refusals = []
    for key, node in walk(config):
        if isinstance(node, Mapping) and "_target_" in node:
            try:
                check_component(node)
            except TargetError as error:
                refusals.append(Refusal(f"{key}::_target_", str(node["_target_"]), str(error)))
        elif isinstance(node, str) and node.startswith("$"):
            try:
                check(node[1:], aliases=aliases)
            except GrammarError as error:
                refusals.append(Refusal(key, node, str(error)))
        elif isinstance(node, str) and node.startswith("%") and not node.startswith(("%::", "%#")):
            path = node[1:].split("::")[0].split("#")[0]
            if path.endswith((".json", ".yaml", ".yml")):
                refusals.append(Refusal(key, node, "reads another file"))
    return refusals


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


def _safe_parser(config: dict[str, Any], source: str) -> Any:
    """MONAI's ConfigParser, with components and expressions of our own."""
    from monai.bundle import ConfigParser
    from monai.bundle.config_item import ConfigComponent, ConfigExpression, ConfigItem

    aliases = import_aliases(config)
    instantiate = _instantiate

    class SafeComponent(ConfigComponent):
        def instantiate(self, **kwargs: Any) -> Any:
            if self.is_disabled():
                return None
            return instantiate({**self.get_config(), **kwargs}, f"{source}: {self.id}")

    class SafeExpression(ConfigExpression):
        # MONAI replaces @id by __local_refs['id'] in the text before it evaluates; the original text is kept for us
        def __init__(self, config: Any, id: str = "", globals: dict[str, Any] | None = None) -> None:
            super().__init__(config=config, id=id, globals=globals)
            self.text = str(config)[1:]

        def evaluate(self, globals: dict[str, Any] | None = None, locals: dict[str, Any] | None = None) -> Any:
            resolved = (globals or {}).get("__local_refs", {})
            try:
                return evaluate(self.text, resolved, aliases=aliases)
            except GrammarError as error:
                raise UntrustedBundleError(
                    f"{source}: refused, {Refusal(self.id, '$' + self.text, str(error))}"
                ) from error

    class SafeParser(ConfigParser):
        def _do_parse(self, config: Any, id: str = "") -> None:
            if isinstance(config, (dict, list)):
                for _, child_id, child in self.ref_resolver.iter_subconfigs(id=id, config=config):
                    self._do_parse(config=child, id=child_id)
            if ConfigComponent.is_instantiable(config):
                item = SafeComponent(config=config, id=id, locator=self.locator)
            elif ConfigExpression.is_expression(config):
                item = SafeExpression(config=config, id=id)
            else:
                item = ConfigItem(config=config, id=id)
            self.ref_resolver.add_item(item)

    return SafeParser(config, globals=False)


def _instantiate(component: Mapping[str, Any], key: str) -> Any:
    from functools import partial

    try:
        check_component(component)
        target = resolve_target(component["_target_"])
    except TargetError as error:
        raise UntrustedBundleError(f"{key}: refused, {component['_target_']!r} {error}") from error
    arguments = {name: value for name, value in component.items() if name not in COMPONENT_WORDS}
    if component.get("_mode_") == "callable":
        return partial(target, **arguments) if arguments else target
    try:
        return target(**arguments)
    except (BundleError, UntrustedBundleError):
        raise
    except Exception as error:
        raise BundleError(f"{key}: {component['_target_']} cannot be built: {type(error).__name__}: {error}") from error


COMPONENT_WORDS = frozenset({"_target_", "_disabled_", "_requires_", "_desc_", "_mode_"})


class SafeConfig:
    """A checked configuration; values and components by id, built on demand.

    Args:
        raw: the merged and overridden configuration.
        trust: use MONAI's own parser, which runs whatever the file says.
        source: where it came from, for messages.
    """

    def __init__(self, raw: dict[str, Any], *, trust: bool = False, source: str = "configuration") -> None:
        self.raw = raw
        self.trust = trust
        self.source = source
        self._parser = self._new_parser()

    def _new_parser(self) -> Any:
        config = copy.deepcopy(self.raw)
        if self.trust:
            from monai.bundle import ConfigParser

            root = str(self.raw.get("bundle_root", ""))
            if root and root not in sys.path:
                sys.path.insert(1, root)  # as MONAI does: a trusted bundle may bring Python files of its own
            return ConfigParser(config)
        return _safe_parser(config, self.source)

    def __contains__(self, key: str) -> bool:
        return look_up(self.raw, key) is not ABSENT

    def get(self, key: str) -> Any:
        """The value or component at an id, references resolved; the same object on each call.

        Raises:
            BundleError: no such id, or the component cannot be built.
            UntrustedBundleError: it is not allowed.
        """
        if key not in self:
            raise BundleError(f"{self.source}: has no {key!r}")
        return self._parser.get_parsed_content(key)

    def build(self, key: str) -> Any:
        """As `get`, but built anew."""
        if key not in self:
            raise BundleError(f"{self.source}: has no {key!r}")
        return self._new_parser().get_parsed_content(key)


def _read_yaml(file: Path) -> dict[str, Any]:
    """A YAML configuration as some bundles have it; plain values only, a tag is refused.

    Raises:
        UntrustedBundleError: a tag that would build a Python object.
        ConfigError, BundleError: not readable, or no table.
    """
    from monai.bundle import ConfigParser

    content = read_yaml(file)
    if not isinstance(content, dict):
        raise BundleError(f"{file}: holds a {type(content).__name__}, expected an object")
    return dict(ConfigParser.load_config_files(content))


def read_file(file: Path) -> dict[str, Any]:
    """One configuration file, JSON or YAML, as plain values."""
    return read_config([file]) if file.suffix == ".json" else _read_yaml(file)


def open_config(
    file: Path, *, trust: bool = False, bundle_root: Path | None = None, overrides: Mapping[str, Any] | None = None
) -> SafeConfig:
    """Read, override and check one configuration file of a bundle.

    Args:
        file: configs/NAME.json.
        trust: skip the check and build with MONAI's own parser.
        bundle_root: set as `bundle_root`, so that paths in the file hold wherever we are.
        overrides: `key::path` -> value, checked against the file, see `medseg.config.apply_overrides`.

    Raises:
        ConfigError: not readable, or an override names an unknown key.
        UntrustedBundleError: something in it is not allowed and `trust` is False.
    """
    config = read_file(file)
    if overrides:
        config = apply_overrides(config, overrides)
    if bundle_root is not None:
        config["bundle_root"] = str(bundle_root)
    if not trust:
        refuse(file, check_config(config))
    return SafeConfig(config, trust=trust, source=str(file))
