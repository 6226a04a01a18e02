"""Window transformers for volumes: Swin UNETR (1 and 2), MaxViT, CSWin, axial attention; PCT-Net's parallel pyramid."""

from ..recipe import Layer, Level, NetworkSpec, Parallel, repeat
from .common import NANO_FINE, fine_levels

SWIN = ("window_attention", "mlp", "shifted_window_attention", "mlp")
SWIN_UNETR_SIZES = {"12": 12, "24": 24, "48": 48}  # features after the patch embedding
MONAI_ORDER = {"order": "monai"}


def swin_unetr(size: str, spatial_dims: int) -> NetworkSpec:
    """The preset `swin_unetr`: numerically MONAI's network, whose weights load."""
    return _swin_unetr(size, ())


def swin_unetr_v2(size: str, spatial_dims: int) -> NetworkSpec:
    """The preset `swin_unetr_v2`: a residual convolution block before every Swin stage."""
    return _swin_unetr(size, ("unetr",))


def _swin_unetr(size: str, first: tuple[str, ...]) -> NetworkSpec:
    width = 16 if size == "nano" else SWIN_UNETR_SIZES[size]
    depth = 4 if size == "nano" else 5
    heads = (2, 4, 8, 16) if size == "nano" else (3, 6, 12, 24)
    window = 4 if size == "nano" else 7
    levels = [Level(width, entry="unetr_input", stride=1)]
    for index in range(depth):
        levels.append(
            Level(
                width * 2**index,
                first + SWIN if index < depth - 1 else (),
                entry="patchify" if index == 0 else "patch_merging",
                from_image=index == 0,
                tap="entry",
                skip="plain_layer_norm",
                num_heads=heads[min(index, 3)],
                window_size=window,
                options={"entry": {} if index == 0 else MONAI_ORDER},
            )
        )
    return NetworkSpec(
        levels=tuple(levels),
        decoder="unetr",
        # the image's block is the first level itself; the last skip but one goes into the decoder as it is
        decoder_options={"blocks": [False] + [True] * (depth - 2) + [False, True]},
    )


def maxvit(size: str, spatial_dims: int) -> NetworkSpec:
    """The preset `maxvit`: inverted residual, block attention, grid attention in every stage."""
    block = "mbconv window_attention mlp grid_attention mlp"
    if size == "nano":
        return NetworkSpec(
            levels=(
                *NANO_FINE,
                Level(96, repeat(block, 1), num_heads=4, window_size=4),
                Level(128, repeat(block, 1), num_heads=4, window_size=4),
            )
        )
    width, counts = MAXVIT_SIZES[size]
    stages = tuple(
        Level(width * 2**i, repeat(block, counts[i]), num_heads=max(1, width * 2**i // 32), window_size=7)
        for i in range(4)
    )
    return NetworkSpec(levels=(*fine_levels(32, 2), *stages), drop_path=0.2)


MAXVIT_SIZES = {"t": (64, (2, 2, 5, 2)), "s": (96, (2, 2, 5, 2)), "b": (96, (2, 6, 14, 2))}


def cswin(size: str, spatial_dims: int) -> NetworkSpec:
    """The preset `cswin`: cross-shaped stripes whose thickness grows with depth."""
    if size == "nano":
        return NetworkSpec(
            levels=(
                *NANO_FINE,
                # heads: a multiple of two and of three, one group per axis
                Level(96, repeat("stripe_attention mlp", 3), num_heads=6, window_size=2),
                Level(120, repeat("stripe_attention mlp", 2), num_heads=6, window_size=4),
            )
        )
    width, counts, heads = CSWIN_SIZES[size]
    if spatial_dims == 3:  # three groups of heads instead of two: the nearest width and heads that they divide
        width, heads = (72, 3) if width == 64 else (96, 6)
    thickness = (1, 2, 7, 7)
    stages = tuple(
        Level(
            width * 2**i, repeat("stripe_attention mlp", counts[i]), entry="wide" if i == 0 else "convolution_norm",
            num_heads=heads * 2**i, window_size=thickness[i], from_image=i == 0,
            options={"entry": {"norm": "layer"}} if i == 0 else {},
        )
        for i in range(4)
    )  # fmt: skip
    return NetworkSpec(levels=(*fine_levels(32, 2), *stages), drop_path=0.2)


# width, blocks per stage, heads of the first stage
CSWIN_SIZES = {"t": (64, (1, 2, 21, 1), 2), "s": (64, (2, 4, 32, 2), 2), "b": (96, (2, 4, 32, 2), 4)}


AXIAL_STAGES = ((96, 2, 6), (192, 2, 12), (384, 6, 24), (768, 2, 48))  # width, blocks, heads


def axial(size: str, spatial_dims: int) -> NetworkSpec:
    """The preset `axial`: attention along one axis per head group, in the coarse stages; `base` is ours."""
    fine = NANO_FINE if size == "nano" else fine_levels(32, 2)
    stages = ((96, 3, 6), (120, 2, 6)) if size == "nano" else AXIAL_STAGES
    coarse = tuple(
        Level(width, repeat("axial_attention mlp", count), num_heads=heads) for width, count, heads in stages
    )
    return NetworkSpec(levels=(*fine, *coarse), drop_path=0.0 if size == "nano" else 0.2)


def pctnet(size: str, spatial_dims: int) -> NetworkSpec:
    """The preset `pctnet`: two levels of convolutions, then three of parallel convolution and Swin branches, and back.

    The released index into the relative bias lets offsets share rows, and clips windows by the shortest axis; ours does not.
    """
    pair: tuple[Layer, ...] = (Parallel((("pre_activation",), SWIN)),)
    widths = (16, 24, 48, 72, 96) if size == "nano" else (24, 48, 128, 256, 512)
    window, block = (4 if size == "nano" else 6), ("pre_activation",)
    levels = [Level(widths[0], block, entry="biased", stride=1), Level(widths[1], block, entry="pooled")]
    levels += [
        Level(width, pair, entry="pooled", num_heads=heads, window_size=window)
        for width, heads in zip(widths[2:], (4, 8, 16), strict=True)
    ]
    return NetworkSpec(
        levels=tuple(levels),
        norm="batch" if size == "published" else "instance",
        decoder="pre_norm",
        decoder_options={"layers": [block, block, pair, pair]},
    )
