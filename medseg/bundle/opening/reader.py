"""The one evaluator of untrusted configurations: gives the value at an id, judging all that it passes.

It works twice with the same code: to judge a file (`building=False`: components are known by their roles only, nothing is
imported or made) and to build from it. Values are data or `Made`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from medseg.config import ABSENT, look_up, steps_of
from medseg.errors import BundleError, ConfigError, MedsegError, UntrustedBundleError, printable

from .bounded import GrammarError, count
from .expressions import import_aliases, inert_nodes, is_plain, is_step, judged
from .forms import UNUSED
from .grammar import REFERENCE, Clock, compute
from .kinds import ANYTHING, LATER, Made
from .measured import measured
from .stand_ins import Unused, stand_in
from .targets import COMPONENT_WORDS, TargetError, check_arguments, resolve_target, target_of

MAX_VALUES = 500_000  # of one file, those that stand behind references counted each time
DISABLED: Any = object()


class Refusal(UntrustedBundleError):
    """One thing that a bundle may not do: where, what, and why."""

    def __init__(self, key: str, what: str, why: str) -> None:
        shown = what if len(what) <= 120 else what[:117] + "..."
        where = key if len(key) <= 200 else f"...{key[-197:]}"
        super().__init__(printable(f"{where}: {shown!r} {why}"))
        self.key = key


class Reader:
    """Values of one configuration by id.

    Args:
        config: the merged file, plain JSON data.
        building: make components; else only judge.
        source: where it came from, for messages.
    """

    def __init__(self, config: Mapping[str, Any], *, building: bool, source: str = "configuration") -> None:
        self.config = config
        self.building = building
        self.source = source
        self.cache: dict[str, Any] = {}
        self.sizes: dict[str, int] = {}
        self.open: set[str] = set()
        self.clock = Clock()
        self.inert = inert_nodes(config)
        self.aliases = import_aliases(config, self.clock, self.inert)

    def at(self, key: str) -> Any:
        """The value at an id; the same one on each call.

        Raises:
            UntrustedBundleError: it is not allowed, refers to itself, or is too large.
            BundleError: a component cannot be built.
        """
        key = "::".join(steps_of(key))
        if key not in self.cache:
            node = look_up(self.config, key)
            if node is ABSENT:
                raise Refusal(key, key, "has a step that no id can name")
            if key in self.open:
                raise Refusal(key, str(node), "refers to itself")
            self.open.add(key)
            try:
                self.cache[key] = self._value(key, node)
            except (UntrustedBundleError, BundleError) as error:
                self.cache[key] = error
            finally:
                self.open.discard(key)
        found = self.cache[key]
        if isinstance(found, MedsegError):
            raise found
        return found

    def _value(self, key: str, node: object) -> object:
        if id(node) in self.inert:
            self.sizes[key] = self.inert[id(node)]
            self._limit(key)
            return node
        if isinstance(node, Mapping):
            return self._component(key, node) if "_target_" in node else self._children(key, node)
        if isinstance(node, list):
            return list(self._children(key, dict(enumerate(node))).values())
        if not isinstance(node, str) or not node.startswith(("@", "$", "%")):
            return node
        if node.startswith("%"):
            raise Refusal(key, node, "reads another place of a file (%), which is not done without trust")
        if node.startswith("$"):
            return self._expression(key, node)
        if REFERENCE.fullmatch(node) is None:
            raise Refusal(key, node, "is no reference")
        return self._reference(key, node[1:].replace("#", "::"))

    def _children(self, key: str, node: Mapping[Any, Any]) -> dict[Any, Any]:
        found = {name: self._child(key, name, child) for name, child in node.items()}
        self.sizes[key] = 1 + sum(self.sizes.get(f"{key}::{name}", 1) for name in node)
        self._limit(key)
        return {name: value for name, value in found.items() if value is not DISABLED}

    def _limit(self, key: str) -> None:
        if self.sizes[key] > MAX_VALUES:
            raise Refusal(key, "...", f"holds more than {MAX_VALUES} values")

    def _child(self, key: str, name: object, child: object) -> object:
        if not is_step(name):
            raise Refusal(key, str(name), "is a key that no id can name")
        return child if is_plain(child) else self.at(f"{key}::{name}")

    def _reference(self, key: str, wanted: str) -> object:
        if look_up(self.config, wanted) is ABSENT:
            if wanted.split("::")[0] == "_meta_":
                raise Refusal(key, f"@{wanted}", "takes a value from metadata.json, which is not done without trust")
            if self.building:
                raise BundleError(f"{self.source}: {key} refers to @{wanted[:200]}, which is not defined")
            return Made(LATER)
        value = self.at(wanted)
        self.sizes[key] = self.sizes.get("::".join(steps_of(wanted)), 1)
        return None if value is DISABLED else value

    def _expression(self, key: str, node: str) -> object:
        try:
            with self.clock:
                tree, form = judged(node[1:], self.aliases)
            if form is not None:
                return self._form(key, node, *form)
            return None if tree is None else self._computed(key, tree)
        except GrammarError as error:
            raise Refusal(key, node, str(error)) from error

    def _computed(self, key: str, tree: Any) -> object:
        later: list[str] = []

        def resolve(wanted: str) -> Any:
            value = self._reference(key, wanted)
            if isinstance(value, Made) and value.role == LATER:
                later.append(wanted)
                raise GrammarError("is not known yet")
            return value

        try:
            value = compute(tree, resolve, self.clock)
        except GrammarError:
            if later:
                return Made(LATER)
            raise
        self.sizes[key] = count(value)
        return value

    def _form(self, key: str, node: str, form: Any, holes: Mapping[str, Any]) -> object:
        if form.make is None:
            if self.building:
                return Made(UNUSED, Unused(node))
            return Made(UNUSED)
        needs = dict(form.needs)
        values = dict(holes)
        for hole, wanted in holes.items():
            if not hole.startswith("REF_"):
                continue
            value = self._reference(key, wanted)
            if not isinstance(value, Made) or value.role not in (needs[hole], LATER):
                raise Refusal(key, node, f"needs a {needs[hole]} at @{wanted}")
            values[hole] = value.value
        return Made(form.role, form.make(values) if self.building else None)

    def _component(self, key: str, node: Mapping[str, Any]) -> object:
        try:
            row = target_of(node)
        except TargetError as error:
            raise Refusal(f"{key}::_target_", str(node["_target_"]), str(error)) from error
        disabled = self.at(f"{key}::_disabled_") if "_disabled_" in node else False
        named = [name for name in node if name not in COMPONENT_WORDS]
        if self.building and _means_yes(disabled):
            return DISABLED
        if "_requires_" in node and (row.done or not self.building):
            self.at(f"{key}::_requires_")
        if "_desc_" in node and not self.building:
            self.at(f"{key}::_desc_")
        if self.building and not row.done:
            # what a stand-in does not use is not resolved: nothing has to be known of it
            named = [name for name in named if row.role == "transform" and row.arguments[name] is not ANYTHING]
        arguments = {name: self.at(f"{key}::{name}") for name in named}
        arguments = {name: value for name, value in arguments.items() if value is not DISABLED}
        try:
            check_arguments(row, arguments, self.config)
        except TargetError as error:
            raise Refusal(key, str(node["_target_"]), str(error)) from error
        if self.building and not row.done:
            return Made(row.role, stand_in(row.role, str(node["_target_"]), plain(arguments)))
        if not self.building:
            return Made(row.role)
        with measured() if row.role == "network" else nullcontext():
            return Made(row.role, self._build(key, node, arguments))

    def _build(self, key: str, node: Mapping[str, Any], arguments: Mapping[str, Any]) -> Any:
        try:
            target = resolve_target(node["_target_"])
        except TargetError as error:
            raise BundleError(f"{self.source}: {key}: {node['_target_']!r} {error}") from error
        try:
            return target(**{name: plain(value) for name, value in arguments.items()})
        except (BundleError, ConfigError) as error:
            if self.source in str(error) or node["_target_"].endswith("run_fit"):
                raise
            raise type(error)(f"{self.source}: {key}: {node['_target_']} {error}") from error
        except MedsegError:
            raise
        except (KeyboardInterrupt, MemoryError):
            raise
        except Exception as error:
            if node["_target_"].endswith("run_fit"):
                raise  # a training that failed is no fault of the file
            why = " ".join(str(error).split())
            raise BundleError(
                f"{self.source}: {key}: {node['_target_']} cannot be built: {type(error).__name__}: {why}"
            ) from error


def _means_yes(value: object) -> bool:
    if isinstance(value, str):
        return value.strip().lower() == "true"
    return not isinstance(value, Made) and bool(value)


def plain(value: object) -> Any:
    """A value with every `Made` in it replaced by the thing itself."""
    if isinstance(value, Made):
        return value.value
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(plain(item) for item in value)
    return value
