"""Networks as their weights were published: one name sets preset, size, padding, norm and every setting that is not ours.

Nothing is downloaded here or anywhere else; who has such weights loads them through `imported`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from medseg.errors import ConfigError, nearest

from .presets.fastervit import FASTERVIT_SIZES
from .presets.gcvit import GCVIT_SIZES
from .presets.mambavision import MAMBAVISION_SIZES
from .presets.swin import SWIN_UNETR_SIZES
from .recipe import NetworkSpec

NON_COMMERCIAL = "published weights are for non-commercial use only (NVIDIA Source Code License-NC, CC BY-NC-SA 4.0)"
MONAI = "weights trained with MONAI: the licence is that of who trained them; the code is Apache 2.0"


def as_it_is(spec: NetworkSpec, spatial_dims: int) -> NetworkSpec:
    """No change."""
    return spec


@dataclass(frozen=True)
class Published:
    """What weights were published for.

    Args:
        preset, size: of `build_network`.
        licence: of such weights.
        dims: the dimensions that weights exist in; others are our lift of the same settings.
        padding: of windows.
        options: fields of `NetworkSpec`.
        adjust: (specification, dimensions) -> what the published network has in other places of its levels.
    """

    preset: str
    size: str
    licence: str
    dims: tuple[int, ...] = (2,)
    padding: str = "published"
    options: Mapping[str, Any] = field(default_factory=dict)
    adjust: Callable[[NetworkSpec, int], NetworkSpec] = as_it_is


def before_the_step(spec: NetworkSpec, spatial_dims: int) -> NetworkSpec:
    """MONAI's MedNeXt widens on the way down by the ratio of the level above, the authors' by that of the level below."""
    levels = [spec.levels[0]]
    for above, level in zip(spec.levels, spec.levels[1:], strict=False):
        entry = {**level.options["entry"], "ratio": above.options["mednext"]["ratio"]}
        levels.append(replace(level, options={**level.options, "entry": entry}))
    return replace(spec, levels=tuple(levels))


# The released scan counts the bias of its step twice, and the released initialisation leaves steps near softplus(0).
_STEPS = {"mambavision": {"dt_bias_scale": 2.0, "dt_init": "mambavision"}}
_READ = {"bias_index": "monai"}
_SWIN = {"window_attention": _READ, "shifted_window_attention": _READ}

PUBLISHED: dict[str, Published] = {
    **{
        f"mambavision_{size}": Published(
            "mambavision", size, NON_COMMERCIAL, options={"norm": "batch", "layer_options": _STEPS}
        )
        for size in MAMBAVISION_SIZES
    },
    **{
        f"fastervit_{size}": Published("fastervit", size, NON_COMMERCIAL, options={"norm": "batch"})
        for size in FASTERVIT_SIZES
    },
    **{f"gcvit_{size}": Published("gcvit", size, NON_COMMERCIAL) for size in GCVIT_SIZES},
    **{
        f"monai_{preset}_{size}": Published(preset, size, MONAI, (2, 3), options={"layer_options": _SWIN})
        for preset in ("swin_unetr", "swin_unetr_v2")
        for size in SWIN_UNETR_SIZES
    },
    **{
        f"monai_mednext_{size}": Published("mednext", size, MONAI, (2, 3), padding="masked", adjust=before_the_step)
        for size in ("s", "b", "m", "l")
    },
}


@dataclass(frozen=True)
class Form:
    """What a call of `build_network` comes to.

    Args:
        preset, size, padding: of the network.
        options: fields of `NetworkSpec` to replace.
        adjust: see `Published`.
        words: the arguments that say all this again.
    """

    preset: str
    size: str
    padding: str
    options: dict[str, Any]
    adjust: Callable[[NetworkSpec, int], NetworkSpec]
    words: dict[str, Any]


def settle(
    published: str | None, preset: str | None, size: str | None, spatial_dims: int, options: Mapping[str, Any]
) -> Form:
    """Join what was asked for with what a published network sets.

    Args:
        published: name in `PUBLISHED`, or None.
        preset, size: as given, or None.
        spatial_dims: 2 or 3.
        options: padding and fields of `NetworkSpec`, as given.

    Raises:
        ConfigError: an unknown name, no preset, or a value that differs from what the published network has.
    """
    changes = dict(options)
    if published is None:
        if preset is None:
            raise ConfigError("build_network: found neither preset nor published, expected one of them")
        padding = changes.pop("padding", "masked")
        words = {"preset": preset, "size": size or "nano", "padding": padding, **changes}
        return Form(preset, size or "nano", padding, changes, as_it_is, words)
    if published not in PUBLISHED:
        raise ConfigError(f"published: found {published!r}. {nearest(str(published), PUBLISHED)}")
    entry = PUBLISHED[published]
    given = {"preset": preset, "size": size, **{key: value for key, value in changes.items() if key != "layer_options"}}
    sets = {"preset": entry.preset, "size": entry.size, "padding": entry.padding, **entry.options}
    for key, value in given.items():
        if value is not None and key in sets and sets[key] != value:
            raise ConfigError(f"published {published}: found {key} {value!r}, expected {sets[key]!r}; leave {key} out")
    layers = joined(published, entry.options.get("layer_options", {}), changes.get("layer_options", {}))
    words = {"published": published, **{key: value for key, value in changes.items() if key not in sets}}
    if changes.get("layer_options"):
        words["layer_options"] = changes["layer_options"]
    changes = {**changes, **entry.options, **({"layer_options": layers} if layers else {})}
    changes.pop("padding", None)
    return Form(entry.preset, entry.size, entry.padding, changes, entry.adjust, words)


def joined(
    published: str, sets: Mapping[str, Mapping[str, Any]], given: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Settings of both; those of a published network cannot be given another value.

    Raises:
        ConfigError: the setting and both values.
    """
    for name, settings in given.items():
        for word, value in settings.items():
            if sets.get(name, {}).get(word, value) != value:
                raise ConfigError(
                    f"published {published}: found {word} {value!r} of {name}, expected {sets[name][word]!r}; leave it out"
                )
    return {name: {**sets.get(name, {}), **given.get(name, {})} for name in {*sets, *given}}
