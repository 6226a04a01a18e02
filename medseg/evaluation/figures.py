"""Pictures for reports: matplotlib without a window, returned as text that an HTML page can hold.

Curves and boxes become SVG, slices become PNG. pyplot and its global state are never touched.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import ArrayLike, NDArray

from medseg.errors import printable
from medseg.io.geometry import orientation_of, spacing_of
from medseg.types import Affine

# Okabe and Ito's colours, told apart by colour-blind readers as well
COLORS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#D55E00", "#CC79A7", "#0072B2", "#999999")
# name, axis cut, letters from left to right and from bottom to top; seen from the feet, as radiologists look at slices
PLANES = (("sagittal", 0, "PA", "IS"), ("coronal", 1, "RL", "IS"), ("axial", 2, "RL", "PA"))
MARGIN_MM = 15.0  # shown around the labels: enough of the neighbourhood to recognise the place


def as_text(name: str, longest: int = 60) -> str:
    """A name as matplotlib draws it letter by letter: no formula between dollars, no control characters, not hidden.

    A dollar after a backslash is drawn as a dollar where a text holds no formula; a legend leaves out what begins with `_`.
    """
    shown = printable(name if len(name) <= longest else f"{name[: longest - 1]}\u2026").replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def curves(series: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, x_label: str, y_label: str) -> str:
    """Lines over steps or epochs as SVG; name -> (x values, y values), NaN leaves a gap."""
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    axes = figure.add_subplot()
    for i, (name, (x, y)) in enumerate(series.items()):
        style = "o-" if len(x) <= 30 else "-"
        axes.plot(x, y, style, color=COLORS[i % len(COLORS)], label=as_text(name), markersize=3, linewidth=1.4)
    axes.set_xlabel(as_text(x_label))
    axes.set_ylabel(as_text(y_label))
    axes.grid(alpha=0.3)
    if series:
        axes.legend(frameon=False, fontsize=8)
    return _svg(figure)


def boxes(values: Mapping[str, Sequence[float]], *, y_label: str) -> str:
    """One box per name with every case as a dot, as SVG; NaN values are left out and counted below the name."""
    figure = Figure(figsize=(max(3.0, 1.1 + 0.75 * len(values)), 3.4), layout="constrained")
    axes = figure.add_subplot()
    generator = np.random.default_rng(0)
    names = []
    for i, (name, numbers) in enumerate(values.items(), start=1):
        defined = np.asarray([v for v in numbers if not math.isnan(v)])
        names.append(
            f"{as_text(name)}\nn={len(defined)}"
            + (f" ({len(numbers) - len(defined)} undefined)" * (len(defined) < len(numbers)))
        )
        if not len(defined):
            continue
        color = COLORS[(i - 1) % len(COLORS)]
        axes.boxplot([defined], positions=[i], widths=0.5, showfliers=False, medianprops={"color": "black"})
        axes.plot(i + generator.uniform(-0.15, 0.15, len(defined)), defined, ".", color=color, markersize=4, alpha=0.7)
    axes.set_xticks(range(1, len(names) + 1), names, fontsize=7, rotation=0 if len(names) <= 6 else 60)
    axes.set_xlim(0.4, len(names) + 0.6)
    axes.set_ylabel(as_text(y_label))
    axes.grid(axis="y", alpha=0.3)
    return _svg(figure)


def overlay(
    image: ArrayLike,
    prediction: NDArray[np.integer] | None,
    reference: NDArray[np.integer] | None,
    affine: Affine,
    *,
    labels: Mapping[int, str] | None = None,
    zoom: bool = True,
) -> str:
    """Three orthogonal planes of an image with label maps on top, as a PNG data address.

    The prediction is filled, the reference drawn as a line. Each plane goes through the slice in which the labels
    differ most, or, without a reference, are largest. Letters at the rim say which way is left, anterior, superior.

    Args:
        image: (X, Y, Z), any number type.
        prediction: integer (X, Y, Z), or None.
        reference: integer (X, Y, Z), or None.
        affine: voxel -> world mm of all three.
        labels: value -> name, for the legend; background is left out.
        zoom: show the surroundings of the labels instead of the whole volume.
    """
    grid = np.asarray(image)
    maps = [None if array is None else _to_ras(np.asarray(array), affine) for array in (prediction, reference)]
    picture = _to_ras(grid, affine).astype(np.float32)
    spacing = _ras_spacing(affine)
    place, box = _where_to_look(maps, picture.shape, spacing, zoom)
    inner = picture[box]
    low, high = np.percentile(inner[np.isfinite(inner)], [1, 99.5]) if np.isfinite(inner).any() else (0.0, 1.0)
    values = sorted({int(v) for array in maps if array is not None for v in np.unique(array)} - {0})
    colors = {value: COLORS[i % len(COLORS)] for i, value in enumerate(values)}

    outline = [withStroke(linewidth=2, foreground="black")]  # the letters stand on bright tissue as often as on dark
    figure = Figure(figsize=(9.0, 3.4), dpi=110, facecolor="black", layout="constrained")
    for axes, (name, axis, across, up) in zip(figure.subplots(1, 3), PLANES, strict=True):
        cut = tuple(place[a] if a == axis else box[a] for a in range(3))
        rows, columns = (spacing[a] for a in (2, 1, 0) if a != axis)
        axes.imshow(picture[cut].T, cmap="gray", vmin=low, vmax=high, origin="lower", aspect=rows / columns)
        _draw_labels(axes, [None if array is None else array[cut].T for array in maps], colors)
        if across == "RL":
            axes.invert_xaxis()
        axes.set_title(name, color="white", fontsize=8)
        axes.set_axis_off()
        for text, x, y in ((across[0], 0.02, 0.5), (across[1], 0.95, 0.5), (up[0], 0.48, 0.02), (up[1], 0.48, 0.93)):
            axes.text(x, y, text, color="white", fontsize=8, transform=axes.transAxes, path_effects=outline)
    if values:
        _legend(figure, colors, labels or {})
    return _png(figure)


def _draw_labels(axes: Any, slices: list[NDArray[np.integer] | None], colors: Mapping[int, str]) -> None:
    prediction, reference = slices
    for value, color in colors.items():
        if prediction is not None and (prediction == value).any():
            mask = np.ma.masked_equal(prediction == value, value=False)
            alpha = 0.35 if reference is not None else 0.5
            axes.imshow(
                mask,
                cmap=_one_color(color),
                alpha=alpha,
                origin="lower",
                aspect=axes.get_aspect(),
                interpolation="none",
            )
        if reference is not None and (reference == value).any() and min(reference.shape) > 1:
            axes.contour(reference == value, levels=[0.5], colors=[color], linewidths=1.0)


def _one_color(color: str) -> Any:
    from matplotlib.colors import ListedColormap

    return ListedColormap([color])


def _legend(figure: Figure, colors: Mapping[int, str], labels: Mapping[int, str]) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(color=color, label=as_text(labels.get(value, str(value)))) for value, color in list(colors.items())[:16]
    ]
    columns = min(len(handles), 8)
    figure.legend(
        handles=handles, loc="outside lower center", ncols=columns, fontsize=7, frameon=False, labelcolor="white"
    )


def _to_ras(array: NDArray[Any], affine: Affine) -> NDArray[Any]:
    """Axes reordered and flipped so that they grow towards right, anterior, superior; no interpolation."""
    letters = orientation_of(affine)
    order = [next(i for i, letter in enumerate(letters) if letter in pair) for pair in ("LR", "PA", "IS")]
    turned = np.transpose(array, order)
    return turned[tuple(slice(None, None, -1 if letters[axis] in "LPI" else 1) for axis in order)]


def _ras_spacing(affine: Affine) -> list[float]:
    letters, spacing = orientation_of(affine), spacing_of(affine)
    return [spacing[next(i for i, letter in enumerate(letters) if letter in pair)] for pair in ("LR", "PA", "IS")]


def _where_to_look(
    maps: Sequence[NDArray[Any] | None], shape: Sequence[int], spacing: Sequence[float], zoom: bool
) -> tuple[list[int], tuple[slice, ...]]:
    """Slice numbers of the three planes, and the part of the volume to show."""
    present = [array for array in maps if array is not None]
    labelled = np.any([array != 0 for array in present], axis=0) if present else np.zeros(shape, dtype=bool)
    differs = present[0] != present[1] if len(present) == 2 else labelled
    focus = differs if differs.any() else labelled
    if not focus.any():
        return [n // 2 for n in shape], tuple(slice(0, n) for n in shape)
    place, box = [], []
    for axis, n in enumerate(shape):
        others = tuple(a for a in range(3) if a != axis)
        place.append(int(focus.sum(axis=others).argmax()))
        filled = np.flatnonzero(labelled.any(axis=others))
        margin = math.ceil(MARGIN_MM / spacing[axis])
        box.append(
            slice(max(0, int(filled[0]) - margin), min(n, int(filled[-1]) + margin + 1)) if zoom else slice(0, n)
        )
    return place, tuple(box)


def _svg(figure: Figure) -> str:
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "medseg", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    return re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
