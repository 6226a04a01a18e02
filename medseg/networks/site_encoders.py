"""A network with one encoder per site: `build_split_network`, the target of bundles that were planned with `medseg split`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from medseg.errors import ConfigError

from .build import decoder_of, encoder_of, lay_out, plain
from .network import SegmentationNetwork, SiteEncoders


def build_split_network(
    sites: Mapping[str, int],
    sent: Mapping[str, Sequence[int]],
    in_channels: int | None = None,
    out_channels: int = 2,
    deep_supervision: bool = True,
    **words: object,
) -> SegmentationNetwork:
    """A network whose encoders live at several sites and whose decoder lives at the one with the labels.

    Args:
        sites: site -> its image channels, in the order of the whole image's channels.
        sent: site -> levels that reach the decoder, 0 the finest; the label site's are all of them.
        in_channels: of the whole image; the sum of `sites` if None.
        out_channels, deep_supervision: see `build_network`.
        words: the other arguments of `build_network`, the same for every encoder.

    Raises:
        ConfigError: no site keeps every level, levels that the preset does not have, or other channels than the sites'.

    Example:
        >>> net = build_split_network({"a": 1, "b": 1}, {"a": [2, 3], "b": [0, 1, 2, 3]}, preset="resenc_unet", spatial_dims=2)
        >>> sorted(net.encoder.sites)
        ['a', 'b']
    """
    total = sum(sites.values())
    if in_channels not in (None, total):
        raise ConfigError(f"in_channels is {in_channels}, the sites bring {total}: {dict(sites)}")
    ground = lay_out({**words, "in_channels": total, "out_channels": out_channels})
    levels = len(ground.steps)
    check_sent(sites, sent, levels)
    encoders: dict[str, nn.Module] = {}
    widths: list[int] = []
    for name, channels in sites.items():
        make = replace(ground.make, in_channels=int(channels))
        encoders[name], widths = encoder_of(make, ground.steps)
    joined = [sum(widths[level] for name in sites if level in sent[name]) for level in range(levels)]
    encoder = SiteEncoders(encoders, list(sites.values()), [sorted(sent[name]) for name in sites], levels)
    network = SegmentationNetwork(
        encoder, decoder_of(ground.make, joined, ground.steps), out_channels=out_channels, strides=ground.steps,
        deep_supervision=deep_supervision,
    )  # fmt: skip
    network.configuration = plain(
        {"sites": dict(sites), "sent": {name: list(sent[name]) for name in sites}, "in_channels": total,
         "out_channels": out_channels, "deep_supervision": deep_supervision, **words}
    )  # fmt: skip
    return network


def check_sent(sites: Mapping[str, int], sent: Mapping[str, Sequence[int]], levels: int) -> None:
    """Refuse levels that nobody or no such level can send. Raises ConfigError."""
    if set(sent) != set(sites):
        raise ConfigError(f"sent names the sites {', '.join(sorted(sent))}; expected {', '.join(sorted(sites))}")
    for name, found in sent.items():
        wrong = [level for level in found if not 0 <= int(level) < levels]
        if wrong or not found:
            raise ConfigError(
                f"site {name!r} sends level {wrong[0] if wrong else 'none'}; this network has the levels 0 (full resolution) to "
                f"{levels - 1}"
            )
    if not any(len(set(found)) == levels for found in sent.values()):
        raise ConfigError("no site keeps every level; the label site's features stay there, so let it have all of them")


def level_count(words: Mapping[str, Any]) -> int:
    """Levels of a preset with these arguments of `build_network`."""
    return len(lay_out(words).steps)


def level_channels(words: Mapping[str, Any]) -> list[int]:
    """Channels of each level's features of an encoder with these arguments of `build_network`, finest first."""
    ground = lay_out(words)
    return list(encoder_of(ground.make, ground.steps)[1])
