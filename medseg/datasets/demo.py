"""A small labelled MR dataset made from the MNI152 maps that the package nilearn ships: for a first run, not for claims.

The T1, grey-matter and white-matter maps (197x233x189, 1 mm) are found without importing nilearn. Each subject is that one
brain under another smooth deformation, contrast, bias field and noise, at 2 mm. Dice on such subjects shows that the
pipeline runs; it says nothing about accuracy on patients.

Source of the maps: ICBM 152 nonlinear symmetric 2009a, Fonov et al. 2011.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medseg.config import read_json
from medseg.errors import DataError, MedsegError
from medseg.io.atomic import write_json
from medseg.io.header import Header, Volume
from medseg.io.volume import read_image, write_image, write_label
from medseg.types import Affine, FilePath, ImageCXYZ

from . import folder as folder_layout
from .dataset import Dataset

LABELS = {0: "background", 1: "CSF", 2: "grey matter", 3: "white matter"}
REFERENCE = (
    "Made by random deformation, contrast, bias field and noise from the ICBM 152 nonlinear symmetric 2009a template "
    "(Fonov et al. 2011) as shipped by nilearn; one brain, so Dice on it is no accuracy claim."
)
LICENCE = (
    "Derived from ICBM 152 2009a, Copyright (C) 1993-2009 Louis Collins, McConnell Brain Imaging Centre, Montreal "
    "Neurological Institute, McGill University, which permits use, copying, modification and distribution without fee."
)

CONTROL_POINTS = 5  # per axis: about 45 mm apart, so that a brain bends and gyri do not tear
DISPLACEMENT_MM = 5.0  # standard deviation at a control point; folds would need about 45 mm between neighbours
TURN_DEGREES = 6.0
SCALE = 0.06
BIAS = 0.18  # standard deviation of the logarithm, a strong 3 T bias field
NOISE = 0.035  # of the white-matter signal, an ordinary clinical T1
SMOOTHING_MM = 0.8  # before sampling at 2 mm: half of the Gaussian that keeps aliasing away


@dataclass(frozen=True)
class Recipe:
    """What decides every voxel of the demo dataset.

    Attributes:
        subjects: labelled subjects to train on.
        left_out: subjects kept for the test.
        spacing_mm: voxel size; 2 mm gives 98x116x94 voxels.
        seed: of all random numbers.
    """

    subjects: int = 6
    left_out: int = 1
    spacing_mm: float = 2.0
    seed: int = 0


def template_path(tissue: str = "t1") -> Path:
    """The map "t1", "gm" or "wm" inside the installed package nilearn, which is not imported.

    The T1 is a full-size volume (197x233x189 voxels of 1 mm) to predict on, untouched.

    Raises:
        DataError: nilearn is not installed, or ships no such map.
    """
    found = importlib.util.find_spec("nilearn")
    for root in (found.submodule_search_locations or []) if found else []:
        path = Path(root) / "datasets" / "data" / f"mni_icbm152_{tissue}_tal_nlin_sym_09a_converted.nii.gz"
        if path.is_file():
            return path
    cause = "is installed but ships no" if found else "is not installed; it ships the"
    raise DataError(f"the package nilearn {cause} MNI152 map {tissue!r}; install it: pip install 'medseg[demo]'.")


def make_demo_dataset(
    folder: FilePath,
    *,
    subjects: int = 6,
    left_out: int = 1,
    spacing_mm: float = 2.0,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Write the demo dataset as a plain folder (images/, labels/, test_images/, test_labels/, dataset.json) and open it.

    A folder that this recipe has already filled is opened as it is. About one second per subject.

    Args:
        folder: made when missing.
        subjects, left_out, spacing_mm, seed: see `Recipe`.
        on_progress: called with (subjects done, subjects in all).

    Raises:
        DataError: nilearn is missing, or the folder holds something else.
        ResourceError: the folder cannot be written.
    """
    root, recipe = Path(folder), Recipe(subjects, left_out, spacing_mm, seed)
    if recipe.subjects < 1 or recipe.left_out < 0 or not 0.5 <= recipe.spacing_mm <= 8:
        raise DataError(
            f"{root}: {recipe} makes no dataset; expected subjects >= 1, left_out >= 0, spacing 0.5 to 8 mm."
        )
    if _is_made(root, recipe):
        return folder_layout.load(root)
    total = recipe.subjects + recipe.left_out
    grid, affine = _demo_grid(recipe.spacing_mm)
    for number in range(total):
        image, label = make_subject(grid, affine, seed=(recipe.seed, number))
        prefix = "" if number < recipe.subjects else "test_"
        name, like = f"subject_{number + 1}.nii.gz", Header.of_array(grid, affine)
        write_image(root / f"{prefix}images" / name, image, like)
        write_label(root / f"{prefix}labels" / name, label, like)
        if on_progress is not None:
            on_progress(number + 1, total)
    description = {
        "name": "MNI152 demo",
        "channels": {"0": "MRI"},
        "labels": {str(value): name for value, name in LABELS.items()},
        "licence": LICENCE,
        "reference": REFERENCE,
        "recipe": asdict(recipe),
    }
    write_json(root / "dataset.json", description)  # last: it says that everything before it is there
    return folder_layout.load(root)


def make_subject(
    grid: tuple[int, int, int], affine: Affine, *, seed: tuple[int, ...]
) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """One random subject: image and label map (X, Y, Z) on a grid.

    Args:
        grid: voxels.
        affine: voxel -> world mm, in the template's space.
        seed: decides everything; equal seeds give equal voxels.
    """
    from scipy import ndimage

    random = np.random.default_rng(seed)
    templates, template_affine = _templates()
    where = _deformed_positions(grid, affine, random)
    inverse = np.linalg.inv(template_affine)
    index = np.tensordot(inverse[:3, :3], where, axes=1) + inverse[:3, 3].reshape(3, 1, 1, 1)
    t1, grey, white, brain = (
        ndimage.map_coordinates(one, index, order=1, mode="constant", cval=0.0, output=np.float32) for one in templates
    )
    fluid = np.clip(brain - grey - white, 0, 1)
    label = np.argmax(np.stack([1 - brain, fluid, grey, white]), axis=0).astype(np.uint8)
    return _appearance(t1, grey, white, random), label


def _is_made(root: Path, recipe: Recipe) -> bool:
    path = root / "dataset.json"
    if not root.exists() or not any(root.iterdir()):
        return False
    try:
        made = read_json(path).get("recipe") if path.is_file() else None
        complete = made == asdict(recipe) and len(folder_layout.load(root).cases) == recipe.subjects
    except (OSError, ValueError, AttributeError, MedsegError):
        made, complete = None, False
    ours = {"images", "labels", "test_images", "test_labels", "dataset.json"}
    if made is None and path.is_file():
        raise DataError(f"{root}: holds another dataset ({path}); choose an empty folder for the demo.")
    foreign = sorted(
        entry.name for entry in root.iterdir() if entry.name not in ours and not entry.name.startswith(".")
    )
    if foreign and not complete:
        raise DataError(f"{root}: holds {foreign[0]!r}, which is not the demo's; choose an empty folder.")
    return complete


@functools.cache
def _templates() -> tuple[tuple[ImageCXYZ, ...], Affine]:
    """T1, grey, white and brain mask in [0, 1], (X, Y, Z) each, smoothed for sampling at 2 mm; and their affine."""
    from scipy import ndimage

    volumes: list[Volume] = [read_image(template_path(tissue)) for tissue in ("t1", "gm", "wm")]
    t1, grey, white = (np.ascontiguousarray(volume.array[0]) / np.float32(255) for volume in volumes)
    brain = (t1 > 0).astype(np.float32)
    sigma = SMOOTHING_MM / np.asarray(volumes[0].spacing)
    smooth = tuple(ndimage.gaussian_filter(one, sigma, truncate=3) for one in (t1, grey, white, brain))
    return smooth, volumes[0].affine


def _demo_grid(spacing_mm: float) -> tuple[tuple[int, int, int], Affine]:
    """The template's field of view with another voxel size, centred on it."""
    _, affine = _templates()
    header_grid = np.asarray(_templates()[0][0].shape)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    grid = np.maximum(np.floor(header_grid * spacing / spacing_mm).astype(int), 8)
    ours = affine.copy()
    ours[:3, :3] = affine[:3, :3] / spacing * spacing_mm
    centre = affine[:3, :3] @ ((header_grid - 1) / 2) + affine[:3, 3]
    ours[:3, 3] = centre - ours[:3, :3] @ ((grid - 1) / 2)
    return (int(grid[0]), int(grid[1]), int(grid[2])), ours


def _deformed_positions(grid: tuple[int, int, int], affine: Affine, random: np.random.Generator) -> NDArray[np.float64]:
    """World position in the template, (3, X, Y, Z), from which each voxel takes its tissue."""
    index = np.stack(np.meshgrid(*(np.arange(extent, dtype=np.float32) for extent in grid), indexing="ij"))
    world = np.tensordot(affine[:3, :3], index, axes=1) + affine[:3, 3].reshape(3, 1, 1, 1)
    centre = world.reshape(3, -1).mean(axis=1).reshape(3, 1, 1, 1)
    turned = np.tensordot(_random_turn(random), world - centre, axes=1) + centre
    bend = np.stack([smooth_field(grid, random) for _ in range(3)])
    return turned + DISPLACEMENT_MM * bend


def smooth_field(grid: tuple[int, int, int], random: np.random.Generator) -> NDArray[np.float64]:
    """Independent normal numbers at `CONTROL_POINTS` per axis, joined by cubic splines: (X, Y, Z)."""
    from scipy import ndimage

    field = random.standard_normal((CONTROL_POINTS,) * 3)
    for axis, extent in enumerate(grid):  # one axis after the other: a tensor spline at a tenth of the cost
        positions = np.linspace(0, CONTROL_POINTS - 1, extent)
        moved = np.moveaxis(field, axis, -1)
        lines = moved.reshape(-1, moved.shape[-1])
        coefficients = ndimage.spline_filter1d(lines, order=3, axis=-1, mode="mirror")
        rows = np.stack(
            [
                ndimage.map_coordinates(line, [positions], order=3, mode="mirror", prefilter=False)
                for line in coefficients
            ]
        )
        field = np.moveaxis(rows.reshape(*moved.shape[:-1], extent), -1, axis)
    return field


def _random_turn(random: np.random.Generator) -> NDArray[np.float64]:
    x, y, z = np.radians(random.uniform(-TURN_DEGREES, TURN_DEGREES, 3))
    turn_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    turn_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    turn_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    return turn_z @ turn_y @ turn_x @ np.diag(1 + random.uniform(-SCALE, SCALE, 3))


def _appearance(
    t1: NDArray[np.float32], grey: NDArray[np.float32], white: NDArray[np.float32], random: np.random.Generator
) -> NDArray[np.int16]:
    """Another scanner: tissue contrast, gamma, bias field, Rician noise, arbitrary units."""
    shifts = random.uniform(-0.06, 0.06, 2)
    signal = np.clip(t1 + shifts[0] * grey + shifts[1] * white, 0, None) ** random.uniform(0.8, 1.3)
    bias = np.exp(BIAS * smooth_field((t1.shape[0], t1.shape[1], t1.shape[2]), random) / np.sqrt(2))
    signal = signal * bias
    noise = NOISE * random.uniform(0.5, 1.2)
    real = signal + noise * random.standard_normal(signal.shape, dtype=np.float32)
    imaginary = noise * random.standard_normal(signal.shape, dtype=np.float32)
    units = random.uniform(300, 2000)
    return np.clip(np.hypot(real, imaginary) * units, 0, 32767).astype(np.int16)
