"""Pieces that several presets share."""

from ..recipe import Level, NetworkSpec, repeat

# The light path at and near full resolution of every nano size: most of the accuracy on small structures comes from
# here, most of the time is spent here, so it is narrow and made of the one convolution that CPUs run best.
NANO_FINE: tuple[Level, ...] = (
    Level(16, ("residual",), stride=1),
    Level(32, ("residual",)),
    Level(64, ("residual",)),
)


def fine_levels(width: int, count: int) -> tuple[Level, ...]:
    """`count` plain levels from full resolution on, for networks whose published form starts coarser.

    Args:
        width: channels at full resolution, doubled per level.
        count: number of levels.
    """
    return tuple(Level(width * 2**i, ("residual",), stride=1 if i == 0 else 2) for i in range(count))


def residual_levels(widths: tuple[int, ...], counts: tuple[int, ...]) -> tuple[Level, ...]:
    """nnU-Net's residual encoder: a stem convolution, then `counts` residual blocks per level, the first of them strided."""
    return tuple(
        Level(width, repeat("residual", count if i == 0 else count - 1), stride=1 if i == 0 else 2,
              entry="convolution" if i == 0 else "residual")
        for i, (width, count) in enumerate(zip(widths, counts, strict=True))
    )  # fmt: skip


def published_stem(width: int, stem: int) -> tuple[Level, ...]:
    """A full-resolution level for the decoder, and the first of the two stem steps of the NVIDIA hybrids."""
    return Level(min(stem, 32), ("residual",), stride=1), Level(stem, entry="stem", from_image=True)


__all__ = ["NANO_FINE", "Level", "NetworkSpec", "fine_levels", "published_stem", "repeat", "residual_levels"]
