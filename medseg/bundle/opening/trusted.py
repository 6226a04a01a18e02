"""A configuration that the user trusts: MONAI's own parser, on exactly the files that were shown and hashed."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from medseg.config import ABSENT, look_up
from medseg.errors import BundleError, MedsegError, UntrustedBundleError

from .inventory import Inventory
from .own_modules import OwnModules
from .parser import SafeConfig


@cache
def _locator() -> object:
    """MONAI's table of its own components; building it takes a second, so every parser of the process shares one."""
    from monai.bundle import ComponentLocator

    return ComponentLocator()


class TrustedConfig(SafeConfig):
    """Values and components by id, built by MONAI's ConfigParser; the same questions as `SafeConfig` answers.

    Args:
        raw: the merged and overridden configuration.
        inventory: what was shown, with its private copy; None where the bundle cannot be trusted.
        source: where it came from, for messages.
        refusal: why nothing may be built, for a bundle that was given `trust` and cannot have it.
    """

    def __init__(
        self,
        raw: dict[str, Any],
        inventory: Inventory | None,
        *,
        source: str,
        refusal: UntrustedBundleError | None = None,
    ) -> None:
        self.raw = raw
        self.source = source
        self.refusal = refusal
        self.inventory = inventory
        self._modules: OwnModules | None = None
        self._parser: Any = None
        if inventory is not None and inventory.copy is not None:
            self._modules = OwnModules(inventory.copy, inventory.folder)

    @property
    def root(self) -> Path | None:
        """The private copy that is read in place of the bundle's folder."""
        return None if self.inventory is None else self.inventory.copy

    def __contains__(self, key: str) -> bool:
        return look_up(self.raw, key) is not ABSENT

    def _new_parser(self) -> object:
        from monai.bundle import ConfigParser

        parser = ConfigParser(self.ready(self.raw))
        parser.locator = _locator()
        return parser

    def ready(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """A configuration made from this bundle's files, for MONAI's workflow: macros read what was shown, modules are found.

        Raises:
            UntrustedBundleError: the bundle holds links, or a macro leaves what was shown.
        """
        if self.refusal is not None or self.inventory is None or self._modules is None:
            raise self.refusal or UntrustedBundleError(f"{self.source}: was not trusted")
        self._modules.activate()
        return dict(inside_only(copy.deepcopy(dict(raw)), self.inventory, self.source))

    def get(self, key: str) -> Any:
        """The value or component at an id, references resolved; the same object on each call.

        Raises:
            BundleError: no such id, or the component cannot be built.
            UntrustedBundleError: the bundle holds links.
        """
        if self._parser is None:
            self._parser = self._new_parser()
        return self._parsed(self._parser, key)

    def build(self, key: str) -> Any:
        """As `get`, but built anew."""
        return self._parsed(self._new_parser(), key)

    def _parsed(self, parser: Any, key: str) -> object:
        if key not in self:
            raise BundleError(f"{self.source}: has no {key!r}")
        assert self._modules is not None
        self._modules.activate()
        try:
            return parser.get_parsed_content(key)
        except MedsegError:
            raise
        except Exception as error:
            cause = " ".join(str(error.__cause__ or error).split())
            raise BundleError(f"{self.source}: {key} cannot be built: {cause}") from error


def inside_only(node: object, inventory: Inventory, source: str) -> Any:
    """Let every macro that names a file (`%configs/x.json::id`) read the private copy's one.

    Raises:
        UntrustedBundleError: a macro names a file outside of what was shown.
    """
    if isinstance(node, Mapping):
        return {key: inside_only(value, inventory, source) for key, value in node.items()}
    if isinstance(node, list):
        return [inside_only(value, inventory, source) for value in node]
    if not isinstance(node, str) or not node.startswith("%"):
        return node
    from monai.bundle import ConfigParser

    name, ids = ConfigParser.split_path_id(node[1:])
    if not name:
        return node
    assert inventory.copy is not None
    for base in (inventory.copy, inventory.folder):
        place = (base / name).resolve()
        if base in place.parents and (inventory.copy / place.relative_to(base)).is_file():
            return f"%{inventory.copy / place.relative_to(base)}" + (f"::{ids}" if ids else "")
    raise UntrustedBundleError(f"{source}: refused, {node!r} reads a file that is not among those that were shown")
