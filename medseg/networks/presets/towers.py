"""ParaTransCNN: a residual convolution tower beside a transformer tower, joined scale by scale."""

from ..recipe import Level, NetworkSpec, repeat


def paratranscnn(size: str, spatial_dims: int) -> NetworkSpec:
    """The preset `paratranscnn`: strides 2, 4, 8, 16 of convolutions, 4, 8, 16 of attention.

    The published decoder has no skip at full resolution; here the first level brings one.
    """
    if size == "nano":  # two heads: a patch of 96 has 13824 tokens at stride 4, and each head pays for their softmax
        widths, counts, towers, depth, heads = (16, 24, 40, 64, 96), (1, 1, 1, 1, 1), (40, 64, 96), 1, 2
    else:
        widths, counts, towers, depth, heads = (32, 64, 64, 128, 256), (1, 1, 3, 4, 6), (320, 640, 1280), 3, 8
    first = tuple(
        Level(width, repeat("residual", count), stride=1 if i == 0 else 2)
        for i, (width, count) in enumerate(zip(widths, counts, strict=True))
    )
    second = tuple(
        Level(width, repeat("full_attention mlp", depth), entry="patchify", from_image=i == 0, num_heads=heads)
        for i, width in enumerate(towers)
    )
    return NetworkSpec(levels=first, second=second, second_from=2)
