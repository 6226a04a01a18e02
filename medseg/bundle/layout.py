"""Where things lie in a bundle folder, and where bundles lie on this machine. No other file spells these paths."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import medseg
from medseg.errors import BundleError, nearest

CONFIG_NAMES = ("train.json", "inference.json", "evaluate.json", "multi_gpu_train.json", "metadata.json")


@dataclass(frozen=True)
class Layout:
    """Paths inside one bundle folder. Nothing is read or created."""

    folder: Path

    @property
    def configs(self) -> Path:
        return self.folder / "configs"

    @property
    def metadata(self) -> Path:
        return self.configs / "metadata.json"

    @property
    def train(self) -> Path:
        return self.configs / "train.json"

    @property
    def inference(self) -> Path:
        return self.configs / "inference.json"

    @property
    def inference_files(self) -> tuple[Path, ...]:
        """inference.json, and the spellings that other people's bundles use."""
        return (self.inference, *(self.inference.with_suffix(suffix) for suffix in (".yaml", ".yml")))

    @property
    def evaluate(self) -> Path:
        return self.configs / "evaluate.json"

    @property
    def multi_gpu_train(self) -> Path:
        return self.configs / "multi_gpu_train.json"

    @property
    def logging(self) -> Path:
        return self.configs / "logging.conf"

    @property
    def splits(self) -> Path:
        return self.configs / "splits.json"

    @property
    def plan(self) -> Path:
        return self.folder / "plan.json"

    @property
    def license(self) -> Path:
        return self.folder / "LICENSE"

    @property
    def readme(self) -> Path:
        return self.folder / "docs" / "README.md"

    @property
    def data_license(self) -> Path:
        return self.folder / "docs" / "data_license.txt"

    @property
    def models(self) -> Path:
        return self.folder / "models"

    @property
    def weights(self) -> Path:
        """What predict uses: a plain state dict."""
        return self.models / "model.pt"

    @property
    def safetensors(self) -> Path:
        """The same weights in a format that cannot hold code; read first where it exists."""
        return self.models / "model.safetensors"

    def fold_weights(self, fold: int) -> Path:
        return self.models / f"fold_{fold}" / "model.pt"

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def run_folder(self, fold: int) -> Path:
        """last.ckpt, resolved config, manifest, metrics and pictures of one fold; never packed."""
        return self.runs / f"fold_{fold}"

    def last_checkpoint(self, fold: int) -> Path:
        return self.run_folder(fold) / "last.ckpt"

    @property
    def checksums(self) -> Path:
        """Written by `medseg bundle pack`: one `sha256  path` line per file."""
        return self.folder / "SHA256SUMS"

    @property
    def schema(self) -> Path:
        """Where MONAI's verify_metadata looks before it downloads the schema."""
        return self.folder / "eval" / "schema.json"


def is_bundle(folder: Path) -> bool:
    """True when the folder holds configs/metadata.json."""
    return (folder / "configs" / "metadata.json").is_file()


def bundle_name(folder: Path) -> str:
    """The `name` in metadata.json, else the folder's own name."""
    try:
        metadata = json.loads(Layout(folder).metadata.read_text(encoding="utf-8"))
        return str(metadata.get("name") or folder.resolve().name)
    except (OSError, ValueError, AttributeError):
        return folder.resolve().name


def packaged_folder(name: str) -> Path:
    """`configs` or `bundles` as shipped: inside an installed wheel, else beside the package in a source tree."""
    package = Path(medseg.__file__).resolve().parent
    installed = package / f"_{name}"
    return installed if installed.is_dir() else package.parent / name


def installed_folder() -> Path:
    """Where `medseg bundle install` puts bundles: $MEDSEG_BUNDLES, else the user's data folder."""
    explicit = os.environ.get("MEDSEG_BUNDLES")
    if explicit:
        return Path(explicit).expanduser()
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "medseg" / "bundles"


def known_bundles() -> dict[str, Path]:
    """Name -> folder of every shipped and installed bundle; an installed one hides a shipped one of the same name."""
    found: dict[str, Path] = {}
    for root in (packaged_folder("bundles"), installed_folder()):
        if root.is_dir():
            found.update({folder.name: folder for folder in sorted(root.iterdir()) if is_bundle(folder)})
    return found


def find_bundle(path_or_name: str | Path) -> Path:
    """The folder of a bundle given as a folder, a packed zip, or the name of a shipped or installed bundle.

    A zip is verified and unpacked once, beside the installed bundles.

    Raises:
        BundleError: nothing of that path or name; the message lists the names there are.
    """
    path = Path(path_or_name).expanduser()
    if path.is_dir():
        if is_bundle(path):
            return path
        if path.name == "configs" and is_bundle(path.parent):
            return path.parent
        raise BundleError(f"{path} is a folder but no bundle: it holds no configs/metadata.json")
    known = known_bundles()
    if str(path_or_name) in known:
        return known[str(path_or_name)]
    if path.suffix == ".zip" and path.is_file():
        from .install import unpacked_once

        return unpacked_once(path)
    listing = nearest(str(path_or_name), known) if known else "No bundle is shipped or installed here."
    raise BundleError(f"no bundle {str(path_or_name)!r}: neither a folder nor a known name. {listing}")


def _candidate_roots() -> Iterator[Path]:
    """Folders that may be the root of the bundle whose config is being run, most certain first."""
    words = sys.argv
    for position, word in enumerate(words):
        if word.startswith("--config_file"):
            text = word.partition("=")[2] or (words[position + 1] if position + 1 < len(words) else "")
            for part in text.strip("[]").split(","):
                yield Path(part.strip(" '\"")).parent.parent
    yield Path.cwd()
    # MONAI's ConfigWorkflow.run() puts the root of the bundle that it runs at the front of sys.path
    for entry in sys.path[:3]:
        yield Path(entry or ".")


def find_bundle_root(name: str) -> str:
    """The root of the bundle `name` whose configuration is being run, for `bundle_root` in its files.

    The model zoo writes "." there, which is right only when the bundle is the working directory. This looks at the
    `--config_file` of the command line, the working directory, then the folder that MONAI's `run()` put on `sys.path`,
    and falls back to "." when none of them is a bundle of that name. Whoever overrides `bundle_root` wins, as always.
    """
    for root in _candidate_roots():
        if is_bundle(root) and bundle_name(root) == name:
            return str(root.resolve())
    return "."
