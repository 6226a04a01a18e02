"""Where things lie in a bundle folder. No other file spells these paths."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from .config import read_json
from .errors import BundleError


@dataclass(frozen=True)
class RunFolder:
    """Files of one training run, `runs/fold_N`. Nothing is read or created."""

    folder: Path

    @property
    def checkpoint(self) -> Path:
        """All that exact resume needs."""
        return self.folder / "last.ckpt"

    @property
    def config(self) -> Path:
        """The resolved train.json."""
        return self.folder / "config.json"

    @property
    def manifest(self) -> Path:
        """Data, versions, seeds and commit."""
        return self.folder / "manifest.json"

    @property
    def metrics(self) -> Path:
        """A row per epoch."""
        return self.folder / "metrics.json"

    @property
    def progress(self) -> Path:
        """The curves as a picture."""
        return self.folder / "progress.png"

    @property
    def budget(self) -> Path:
        """The length that a time budget was turned into."""
        return self.folder / "budget.json"

    @property
    def report(self) -> Path:
        """Last figures, curves and what the run was made of, as one page."""
        return self.folder / "report.html"

    @property
    def log(self) -> Path:
        """What was said, and a line per epoch."""
        return self.folder / "log.txt"

    @property
    def result(self) -> Path:
        """The last metrics; there once the run has finished."""
        return self.folder / "result.json"

    @property
    def preparation(self) -> Path:
        """What preprocessing found."""
        return self.folder / "preparation.json"

    @property
    def cases(self) -> Path:
        """The cases of the run, with hashes of their files."""
        return self.folder / "cases.json"

    @property
    def untracked(self) -> Path:
        """What the tracking store has not taken yet."""
        return self.folder / "untracked.json"

    @property
    def initialization(self) -> Path:
        """Which weights of another network were taken over."""
        return self.folder / "initialization.json"


@dataclass(frozen=True)
class SiteFolder:
    """What a site of a federated or split training holds beside its copy of the bundle. Nothing is read or created."""

    folder: Path

    @property
    def record(self) -> Path:
        """Name, role and data folder."""
        return self.folder / "site.json"

    @property
    def failure(self) -> Path:
        """Why the last run ended there."""
        return self.folder / "failure.txt"

    @property
    def half(self) -> Path:
        """The site's own part of a split network, once trained."""
        return self.folder / "half.pt"

    @property
    def losses(self) -> Path:
        """Of every step of a split training, at the label site."""
        return self.folder / "losses.json"

    @property
    def predictions(self) -> Path:
        """Label maps that the label site made across the sites."""
        return self.folder / "predictions"

    @property
    def shared_names(self) -> Path:
        """Patients whom all sites have, a name a line."""
        return self.folder / "shared_names.txt"

    @property
    def training(self) -> Path:
        """Which training the states and the half are of."""
        return self.state / "training.json"

    @property
    def state(self) -> Path:
        """All that a split training needs to go on, one file a step."""
        return self.folder / "state"


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

    def fold_models(self, fold: int | str) -> Path:
        """The folder of one fold's weights."""
        return self.models / f"fold_{fold}"

    def fold_weights(self, fold: int | str) -> Path:
        return self.fold_models(fold) / self.weights.name

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def run_folder(self, fold: int) -> Path:
        """last.ckpt, resolved config, manifest, metrics and pictures of one fold; never packed."""
        return self.runs / f"fold_{fold}"

    def run_claim(self, fold: int) -> Path:
        """Held by the process that trains a fold; beside its folder, which may be set aside."""
        return self.runs / f".fold_{fold}.lock"

    @property
    def start(self) -> Path:
        """Weights that every training of an adapted bundle begins with; never packed."""
        return self.runs / "start.pt"

    @property
    def adaptation(self) -> Path:
        """What `medseg adapt` took over from which source."""
        return self.readme.with_name("adaptation.json")

    @property
    def pretraining(self) -> Path:
        """Which cases, and with what, the weights were pretrained; travels with them."""
        return self.readme.with_name("pretraining.json")

    @property
    def sites(self) -> Path:
        """One folder for each site of a federated or split training; never packed."""
        return self.runs / "sites"

    def site(self, name: str) -> SiteFolder:
        """The files of one site."""
        return SiteFolder(self.sites / name)

    @property
    def global_weights(self) -> Path:
        """Where a federated job leaves what it averaged."""
        return self.sites / "global.pt"

    @property
    def leakage_report(self) -> Path:
        """What `medseg split leakage` found; it shows patients' images, and is never packed."""
        return self.runs / "report.html"

    @property
    def collaboration(self) -> Path:
        """Which sites train this bundle together, and what was shared to plan it."""
        return self.runs / "collaboration.json"

    @property
    def files_lock(self) -> Path:
        """Held by a process while it changes the files that all folds share."""
        return self.runs / ".files.lock"

    def last_checkpoint(self, fold: int) -> Path:
        """All that exact resume of one fold needs."""
        return self.run(fold).checkpoint

    def run(self, fold: int) -> RunFolder:
        """The files of one fold's run."""
        return RunFolder(self.run_folder(fold))

    def finished_runs(self) -> dict[int, RunFolder]:
        """fold -> its run, for the folds that have a result."""
        numbers = (path.name.removeprefix("fold_") for path in self.runs.glob("fold_*"))
        runs = {int(number): self.run(int(number)) for number in numbers if number.isdigit()}
        return {fold: runs[fold] for fold in sorted(runs) if runs[fold].result.is_file()}

    @property
    def cross_validation(self) -> Path:
        """Label maps that `medseg cv` predicted out of fold."""
        return self.runs / "cross_validation"

    @property
    def cross_validation_record(self) -> Path:
        """What `medseg cv` found, JSON."""
        return self.readme.with_name("cross_validation.json")

    @property
    def trust(self) -> Path:
        """What `medseg cv` learned of expected Dice, volumes and temperature, JSON."""
        return self.configs / "trust.json"

    @property
    def unfinished(self) -> Path:
        """Files that are about to change together, while they do; see `medseg.selection.unfinished`."""
        return self.runs / "unfinished.json"

    @property
    def cross_validation_report(self) -> Path:
        return self.readme.with_name("cross_validation.html")

    @property
    def label_codes(self) -> Path:
        """DICOM codes of the labels, where a bundle brings them."""
        return self.configs / "labels.json"

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
        metadata = read_json(Layout(folder).metadata)
        return str(metadata.get("name") or folder.resolve().name)
    except (OSError, ValueError, AttributeError):
        return folder.resolve().name


def check_name(name: str) -> None:
    """Refuse a name that is no snake_case word: it becomes a folder, a Python-like id and a registered model's name.

    Raises:
        BundleError: with the nearest name that would do.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        cure = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "model"
        cure = cure if cure[0].isalpha() else f"model_{cure}"
        raise BundleError(f"{name!r} is no bundle name: lower-case letters, digits and _ only, such as {cure!r}")
