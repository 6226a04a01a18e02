"""Slices of a volume with label maps on top, as PNG: drawn by Pillow, since matplotlib takes longer to import than most
volumes take to segment.
"""

from __future__ import annotations

import base64
import importlib.util
import io
import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

from medseg.errors import printable
from medseg.io.geometry import orientation_of, spacing_of
from medseg.types import Affine

# Twelve colours, the nearest two 0.14 apart in OKLab for normal, red-, green- and blue-blind eyes alike (Machado 2009)
COLORS = (
    "#E1692D", "#6978FF", "#F0F069", "#78FFFF", "#B42D3C", "#A5B4FF", "#E1B487", "#874B96", "#A587A5", "#0000F0", "#780000",
    "#4B1E78",
)  # fmt: skip
MISSED, EXTRA = "#FF2D95", "#FFC107"  # voxels of the reference alone, of the prediction alone
# name, axis cut, letters from left to right and from bottom to top; as radiologists look at slices: from the feet, nose left
PLANES = (("sagittal", 0, "AP", "IS"), ("coronal", 1, "RL", "IS"), ("axial", 2, "RL", "PA"))
FILL = 0.25  # of a label's colour; its border is drawn whole
MARGIN_MM = 15.0  # shown around the labels: enough of the neighbourhood to recognise the place
PANEL, TITLE, ROW = (330, 330), 18, 16  # pixels: one plane, the line above it, one line of the legend
IN_LEGEND, IN_ROW, LONGEST = 16, 8, 60
STAMP_COLOR = "#D40000"
BARS_MM = (1, 2, 5, 10, 20, 50, 100, 200)


def overlay(
    image: ArrayLike,
    prediction: NDArray[np.integer] | None,
    reference: NDArray[np.integer] | None,
    affine: Affine,
    *,
    labels: Mapping[int, str] | None = None,
    zoom: bool = True,
    stamp: str = "",
    name: str = "",
) -> str:
    """Three orthogonal planes of an image, alone, with label maps on top, and with their differences, as a PNG data address.

    The prediction is filled, the reference drawn as a line (with one of them: filled and lined). A row of their differences
    shows what was missed and what is extra. Each plane goes through the slice in which the labels differ most, or, without
    a reference, are largest. Letters at the rim say which way is left, anterior, superior; a bar gives the scale.

    Args:
        image: (X, Y, Z), any number type.
        prediction: integer (X, Y, Z), or None.
        reference: integer (X, Y, Z), or None.
        affine: voxel -> world mm of all three.
        labels: value -> name, for the legend; background is left out.
        zoom: show the surroundings of the labels instead of the whole volume.
        stamp: a warning written across the top, in white on red.
        name: of the case, written into the picture.
    """
    grid = np.asarray(image)
    maps = [None if array is None else to_ras(np.asarray(array), affine) for array in (prediction, reference)]
    picture = to_ras(grid, affine).astype(np.float32)
    spacing = ras_spacing(affine)
    place, box = where_to_look(maps, picture.shape, spacing, zoom)
    values = sorted({int(v) for array in maps if array is not None for v in np.unique(array)} - {0})
    colors = {value: COLORS[i % len(COLORS)] for i, value in enumerate(values)}
    both = prediction is not None and reference is not None
    legend = [(color, _text((labels or {}).get(value, str(value)))) for value, color in colors.items()][:IN_LEGEND]
    legend += [(MISSED, "missed"), (EXTRA, "extra")] if both else []

    rows = ["image", *(["labels"] if values else []), *(["differences"] if both and values else [])]
    top = ROW + 4 if stamp else 0
    height = TITLE + PANEL[1]
    canvas = Image.new(
        "RGB", (3 * PANEL[0], top + len(rows) * height + 4 + ROW * (1 - -len(legend) // IN_ROW)), "black"
    )
    draw = ImageDraw.Draw(canvas)
    if stamp:
        draw.rectangle((0, 0, canvas.width, top), fill=STAMP_COLOR)
        draw.text((canvas.width / 2, top / 2), _text(stamp, 120), fill="white", font=_font(12), anchor="mm")
    window = window_of(picture[box])
    world = ras_affine(affine, grid.shape) @ [*place, 1.0]
    for i, (plane, axis, across, up) in enumerate(PLANES):
        cut = tuple(place[a] if a == axis else box[a] for a in range(3))
        pixel_mm = [spacing[a] for a in range(3) if a != axis]
        slices = [None if array is None else array[cut] for array in maps]
        drawn = _Plane(picture[cut], slices[0], slices[1], (pixel_mm[0], pixel_mm[1]), across in ("RL", "AP"))
        title = f"{plane}  {'xyz'[axis]} = {world[axis]:.1f} mm"
        for row, kind in enumerate(rows):
            shown, mm = _draw_plane(drawn, window, colors, kind)
            above = top + row * height
            corner = (i * PANEL[0] + (PANEL[0] - shown.width) // 2, above + TITLE + (PANEL[1] - shown.height) // 2)
            canvas.paste(shown, corner)
            draw.text(
                (i * PANEL[0] + PANEL[0] / 2, above + TITLE / 2), title, fill="white", font=_font(12), anchor="mm"
            )
            rim = (*corner, corner[0] + shown.width, corner[1] + shown.height)
            _letters(draw, rim, across, up)
            _scale_bar(draw, rim, mm)
    below = top + len(rows) * height + 4
    _legend(draw, legend, canvas.width, below)
    words = f"window {window[0]:.4g} to {window[1]:.4g}"
    words = f"{_text(name)}   {words}" if name else words
    draw.text((6, canvas.height - ROW / 2 - 1), words, fill="white", font=_font(11), anchor="lm")
    return _png(canvas)


class _Plane(NamedTuple):
    """One slice, first axis from left to right, second from bottom to top; `mirrored`: shown from its end to its start."""

    image: NDArray[np.float32]
    prediction: NDArray[np.integer] | None
    reference: NDArray[np.integer] | None
    pixel_mm: tuple[float, float]
    mirrored: bool


def _draw_plane(
    plane: _Plane, window: tuple[float, float], colors: Mapping[int, str], kind: str
) -> tuple[Image.Image, float]:
    """The panel, and how many mm one of its pixels has."""
    extent = [max(size * mm, 1e-6) for size, mm in zip(plane.image.shape, plane.pixel_mm, strict=True)]
    scale = min((PANEL[0] - 6) / extent[0], PANEL[1] / extent[1])
    size = (max(1, round(extent[0] * scale)), max(1, round(extent[1] * scale)))

    def turned(array: NDArray[Any]) -> NDArray[Any]:
        rows = array.T[::-1]
        return np.ascontiguousarray(rows[:, ::-1] if plane.mirrored else rows)

    low, high = window
    with np.errstate(invalid="ignore", over="ignore"):
        shades = np.nan_to_num((turned(plane.image) - low) / (high - low or 1.0), nan=0.0, posinf=1.0, neginf=0.0)
    gray = Image.fromarray((shades.clip(0, 1) * 255).astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)
    # even shades only: no eye tells them apart, and the noise of a scan takes a quarter less of the page
    pixels = np.repeat((np.asarray(gray) & 0xFE).astype(np.float32)[..., None], 3, axis=2)

    def resized(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        small = Image.fromarray(turned(mask).astype(np.uint8) * 255)
        return np.asarray(small.resize(size, Image.Resampling.NEAREST)) > 0

    if kind == "labels":
        for value, color in colors.items():
            for array, filled, lined in (
                (plane.prediction, True, plane.reference is None),
                (plane.reference, plane.prediction is None, True),
            ):
                if array is not None and (array == value).any():
                    _paint(pixels, resized(array == value), color, filled=filled, lined=lined)
    elif kind == "differences" and plane.prediction is not None and plane.reference is not None:
        wrong = plane.prediction != plane.reference
        _paint(pixels, resized(wrong & (plane.prediction != 0)), EXTRA, filled=True, lined=True)
        _paint(pixels, resized(wrong & (plane.reference != 0)), MISSED, filled=True, lined=True)
    return Image.fromarray(pixels.round().astype(np.uint8)), 1.0 / scale


def _paint(pixels: NDArray[np.float32], mask: NDArray[np.bool_], color: str, *, filled: bool, lined: bool) -> None:
    paint = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)], np.float32)
    if filled:
        pixels[mask] = (1 - FILL) * pixels[mask] + FILL * paint
    if lined:
        pixels[_rim(mask)] = paint


def _scale_bar(draw: ImageDraw.ImageDraw, box: tuple[float, float, float, float], mm_per_pixel: float) -> None:
    """A white bar of a round length, at most a third of the panel, in its lower right corner."""
    left, _, right, below = box
    room = (right - left) / 3 * mm_per_pixel
    length = max((bar for bar in BARS_MM if bar <= room), default=0)
    if not length:
        return
    end, start, y = right - 6, right - 6 - length / mm_per_pixel, below - 6
    draw.line((start, y, end, y), fill="black", width=4)
    draw.line((start, y, end, y), fill="white", width=2)
    text = f"{length} mm"
    draw.text(
        ((start + end) / 2, y - 4), text, fill="white", font=_font(10), anchor="mb", stroke_width=1, stroke_fill="black"
    )


def _rim(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of a mask with a pixel outside beside them."""
    around = np.pad(mask, 1)
    inner = around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
    return mask & ~inner


def _letters(draw: ImageDraw.ImageDraw, box: tuple[float, float, float, float], across: str, up: str) -> None:
    left, above, right, below = box
    middle = ((left + right) / 2, (above + below) / 2)
    places = (
        (across[0], (left + 4, middle[1]), "lm"),
        (across[1], (right - 4, middle[1]), "rm"),
        (up[0], (middle[0], below - 3), "mb"),
        (up[1], (middle[0], above + 3), "mt"),
    )
    for text, at, anchor in places:  # outlined: the letters stand on bright tissue as often as on dark
        draw.text(at, text, fill="white", font=_font(12), anchor=anchor, stroke_width=1, stroke_fill="black")


def _legend(draw: ImageDraw.ImageDraw, names: Sequence[tuple[str, str]], width: int, top: int) -> None:
    columns = min(len(names), IN_ROW)
    for i, (color, name) in enumerate(names):
        cell = width / columns
        x, y = (i % columns) * cell + 6, top + (i // columns) * ROW
        draw.rectangle((x, y + 3, x + 14, y + 12), fill=color)
        shown = name
        while shown and draw.textlength(shown, font=_font(11)) > cell - 26:
            shown = shown.removesuffix("\u2026")[:-1] + "\u2026" if len(shown) > 2 else ""
        draw.text((x + 18, y + 8), shown, fill="white", font=_font(11), anchor="lm")


def _text(name: str, longest: int = LONGEST) -> str:
    return printable(name if len(name) <= longest else f"{name[: longest - 1]}\u2026")


@cache
def _font(size: int) -> Any:
    """DejaVu, which knows Greek and Cyrillic, from the folder of matplotlib, which is not imported for it."""
    home = importlib.util.find_spec("matplotlib")
    file = Path(home.origin or "").parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf" if home else None
    if file is not None and file.is_file():
        return ImageFont.truetype(str(file), size)
    return ImageFont.load_default(size)


def window_of(inner: NDArray[np.float32]) -> tuple[float, float]:
    """Values shown black and white: the first and the 99.5th percentile of what is finite."""
    finite = inner[np.isfinite(inner)]
    if not finite.size:
        return 0.0, 1.0
    low, high = np.percentile(finite.astype(np.float64), [1, 99.5])
    return float(low), float(high)


def to_ras(array: NDArray[Any], affine: Affine) -> NDArray[Any]:
    """Axes reordered and flipped so that they grow towards right, anterior, superior; no interpolation."""
    letters = orientation_of(affine)
    order = [next(i for i, letter in enumerate(letters) if letter in pair) for pair in ("LR", "PA", "IS")]
    turned = np.transpose(array, order)
    return turned[tuple(slice(None, None, -1 if letters[axis] in "LPI" else 1) for axis in order)]


def ras_affine(affine: Affine, shape: Sequence[int]) -> NDArray[np.float64]:
    """Voxel -> world mm of `to_ras` of an array of this shape."""
    letters = orientation_of(affine)
    order = [next(i for i, letter in enumerate(letters) if letter in pair) for pair in ("LR", "PA", "IS")]
    turn = np.zeros((4, 4))
    turn[3, 3] = 1.0
    for new, old in enumerate(order):
        flipped = letters[old] in "LPI"
        turn[old, new] = -1.0 if flipped else 1.0
        turn[old, 3] = shape[old] - 1 if flipped else 0.0
    return np.asarray(np.asarray(affine, np.float64) @ turn)


def ras_spacing(affine: Affine) -> list[float]:
    """Voxel sizes in mm along right, anterior, superior."""
    letters, spacing = orientation_of(affine), spacing_of(affine)
    return [spacing[next(i for i, letter in enumerate(letters) if letter in pair)] for pair in ("LR", "PA", "IS")]


def where_to_look(
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


def _png(canvas: Image.Image) -> str:
    buffer = io.BytesIO()
    canvas.save(buffer, format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
