"""Which parts of every preset were published as they stand here, and which are ours: docs/networks.md has it as a table.

Of sizes beyond nano; every nano size is ours. A letter per level, finest first: `p` its entry and sub-layers are published, `m`
its mixers are published and their place or width is ours, `o` it is ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from medseg.errors import ConfigError

from ..recipe import Layer, Level, NetworkSpec, Parallel, Replace, TokensOrChannels
from . import PRESETS

WORDS = {"p": "published", "m": "published mixers, our arrangement", "o": "ours"}


@dataclass(frozen=True)
class Origin:
    """Where a preset's parts come from.

    Args:
        levels: a letter per level of the encoder.
        decoder: a letter.
        differs: what differs from the release, in words; nothing where nothing is known to.
        second: letters of a second tower.
    """

    levels: str
    decoder: str
    differs: str = ""
    second: str = ""


# a level at full resolution for the decoder, then what classifiers have
CLASSIFIER = "a classifier in its release: the finest level, the skips' use and the decoder are ours"
ISOTROPIC = f"{CLASSIFIER}; the position table is a sum of one table per axis"
BIASES = "convolutions before norms have no bias, which changes nothing"
LANGUAGE = "a language model in its release: heads, expansions and order of the mixers are its own, all else is ours"

ORIGINS: dict[str, Origin] = {
    "ascan": Origin("oommmm", "o", "a classifier in its release: patterns, widths and depths are ours"),
    "axial": Origin("oommmm", "o", "stripes of thickness 1, one axis per group of heads, instead of one axis per layer"),
    "cswin": Origin("oopppp", "o", f"{CLASSIFIER}; three groups of heads and other widths in 3D"),
    "fastervit": Origin("oppppp", "o", f"{CLASSIFIER}; instance norm and masked padding unless `published=` is given"),
    "gated_deltanet_h1": Origin("ooomm", "o", LANGUAGE),
    "gated_deltanet_h2": Origin("ooomm", "o", LANGUAGE),
    "gcvit": Origin("oppppp", "o", f"{CLASSIFIER}; masked padding unless `published=` is given"),
    "hvir": Origin("oommmm", "o", "the widths of the hierarchical form are not known"),
    "hyena_unetr": Origin("oooom", "o", "a UNETR whose trunk is Hyena; no such network is published with its widths"),
    "mamba2_hybrid": Origin("ooomm", "o", LANGUAGE),
    "mambavision": Origin(
        "oppppp", "o", f"{CLASSIFIER}; instance norm, masked padding, one count of the step's bias and Mamba's initial steps "
        "unless `published=` is given; windows of 7 in 3D"
    ),
    "maxvit": Origin("oommmm", "o", f"{CLASSIFIER}; stages are entered by a convolution instead of a strided first block"),
    "mednext": Origin("ppppp", "p"),
    "mhs_vm": Origin("oommmm", "o", "widths and depths are ours"),
    "paratranscnn": Origin("opppp", "o", "the finest level and its skip are ours; plain up-blocks", "ppp"),
    "pctnet": Origin("ppppp", "p", "the released bias index lets offsets share rows and clips by the shortest axis; no dropout"),
    "plainmamba": Origin(
        "oooop", "o", f"{ISOTROPIC}; step sizes and projections follow their order and the step's bias counts once, which the "
        "released code does otherwise"
    ),
    "resenc_unet": Origin("pppppp", "p", BIASES),
    "segmamba": Origin("ppppp", "p", "the inter-slice order follows the grid instead of patches of 128"),
    "swin_unetr": Origin("pppppp", "p", "masked padding and geometric bias index unless `published=` is given"),
    "swin_unetr_v2": Origin("pppppp", "p", "masked padding and geometric bias index unless `published=` is given"),
    "umamba_bot": Origin("pppppp", "p", BIASES),
    "umamba_enc": Origin("pppppp", "p", f"{BIASES}; channel tokens need `roi_size`"),
    "vim": Origin("oooop", "o", f"{ISOTROPIC}; no class token"),
    "vir": Origin("oooop", "o", f"{ISOTROPIC}; no class token; a norm per head; corners of the volume in turn"),
    "xlstm_unet": Origin("pppppp", "p", f"{BIASES}; channel tokens need `roi_size`"),
}  # fmt: skip


def largest(preset: str, spatial_dims: int = 3) -> NetworkSpec:
    """The specification of a preset's first size beyond nano."""
    return PRESETS[preset].build(PRESETS[preset].larger[0], spatial_dims)


def origin_rows(preset: str) -> list[tuple[str, str, str]]:
    """(part, what it is, where it comes from) of every part of a preset.

    Raises:
        ConfigError: another number of letters than levels.
    """
    spec, origin = largest(preset), ORIGINS[preset]
    rows = []
    for name, levels, letters in (("level", spec.levels, origin.levels), ("second tower", spec.second, origin.second)):
        if len(levels) != len(letters):
            raise ConfigError(
                f"origins of {preset}: found {len(letters)} letters, expected {len(levels)} (one per level)"
            )
        for index, (level, letter) in enumerate(zip(levels, letters, strict=True)):
            rows.append((f"{name} {index}", describe(level), WORDS[letter]))
    rows.append(("decoder", f"`{spec.decoder}`", WORDS[origin.decoder]))
    if origin.differs:
        rows.append(("differs", origin.differs, "ours"))
    return rows


def describe(level: Level) -> str:
    """Entry, sub-layers with their number, and skip of a level."""
    text = f"`{level.entry}`"
    words = [word for layer in level.layers for word in spoken(layer)]
    counts = {word: words.count(word) for word in dict.fromkeys(words)}
    if counts:
        text += ", then " + ", ".join(f"{count} `{word}`" for word, count in counts.items())
    return text if level.skip == "none" else f"{text}; skip `{level.skip}`"


def spoken(layer: Layer) -> list[str]:
    """Names of a sub-layer, with what is done around them."""
    if isinstance(layer, Parallel):
        return [" beside ".join("+".join(branch) for branch in layer.branches)]
    if isinstance(layer, TokensOrChannels):
        return [f"{word} (tokens or channels)" for word in spoken(layer.layer)]
    return [f"{layer.mixer} (no residual)"] if isinstance(layer, Replace) else [layer]


def table(presets: Sequence[str] = tuple(PRESETS)) -> list[str]:
    """The lines of the table in docs/networks.md; neighbouring levels of one preset that are alike share a line."""
    lines = ["| preset | part | what | from |", "|---|---|---|---|"]
    for preset in presets:
        for (what, origin), group in groupby(origin_rows(preset), key=lambda row: (row[1], row[2])):
            parts = [part for part, _, _ in group]
            part = parts[0] if len(parts) == 1 else f"{parts[0]} to {parts[-1].rpartition(' ')[2]}"
            lines.append(f"| `{preset}` | {part} | {what} | {origin} |")
    return lines
