"""Parameters of whole published networks, encoder and decoder: exact, against formulas written here or MONAI's own classes."""

import itertools

import pytest

from medseg.networks.network import SegmentationNetwork
from tests.networks.counting import CLASSES, attention, classifier, count, mamba, mlp, norm, on_meta

OUT = 14
MONAI = pytest.importorskip("monai.networks.nets")


def one_head(network: SegmentationNetwork) -> int:
    """Parameters without the heads of deep supervision, which the released networks may have or not."""
    return count(network) - count(network.coarse_heads)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("size", ["12", "24", "48"])
@pytest.mark.parametrize("preset", ["swin_unetr", "swin_unetr_v2"])
def test_swin_unetr_has_exactly_monais_parameters(preset: str, size: str, dims: int) -> None:
    theirs = MONAI.SwinUNETR(1, OUT, feature_size=int(size), spatial_dims=dims, use_v2=preset.endswith("v2"))
    assert one_head(on_meta(preset, size, spatial_dims=dims, out_channels=OUT)) == count(theirs)


MEDNEXT = {
    "s": ((2,) * 9, (2,) * 9, 5.6), "b": ((2,) * 9, (2, 3, 4, 4, 4, 4, 4, 3, 2), 10.5),
    "m": ((3, 4, 4, 4, 4, 4, 4, 4, 3), (2, 3, 4, 4, 4, 4, 4, 3, 2), 17.6),
    "l": ((3, 4, 8, 8, 8, 8, 8, 4, 3), (3, 4, 8, 8, 8, 8, 8, 4, 3), 61.8),
}  # fmt: skip


def mednext(counts: tuple[int, ...], ratios: tuple[int, ...], dims: int) -> int:
    """Depthwise 3, norm, expansion, reduction; going up or down a residual convolution of 1 beside it."""

    def block(c: int, ratio: int, out: int) -> int:
        return (3**dims + 1) * c + norm(c) + (c + 1) * ratio * c + (ratio * c + 1) * out

    def step(c: int, ratio: int, out: int) -> int:
        return block(c, ratio, out) + (c + 1) * out

    widths = (32, 64, 128, 256, 512, 256, 128, 64, 32)
    total = 2 * 32 + 33 * OUT
    total += sum(n * block(c, ratio, c) for n, c, ratio in zip(counts, widths, ratios, strict=True))
    return total + sum(step(c, ratio, after) for c, ratio, after in zip(widths, ratios[1:], widths[1:], strict=False))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("size", MEDNEXT)
def test_mednext_has_exactly_the_released_parameters(size: str, dims: int) -> None:
    counts, ratios, millions = MEDNEXT[size]
    formula = mednext(counts, ratios, dims)
    assert one_head(on_meta("mednext", size, spatial_dims=dims, out_channels=OUT)) == formula
    if dims == 3:
        heads = sum(
            (width + 1) * OUT for width in (64, 128, 256, 512)
        )  # the papers' figures hold those of deep supervision
        assert round((formula + heads) / 1e6, 1) == millions


def residual_encoder(widths: tuple[int, ...], counts: tuple[int, ...], dims: int) -> int:
    """nnU-Net's residual encoder and its decoder of one convolution a level; no biases before norms, one head."""
    cube, corner = 3**dims, 2**dims

    def unit(into: int, out: int) -> int:
        return cube * into * out + norm(out)

    total = unit(1, widths[0])
    for level, (width, blocks) in enumerate(zip(widths, counts, strict=True)):
        total += blocks * 2 * unit(width, width)
        if level and widths[level - 1] != width:
            total += unit(widths[level - 1], width) - unit(width, width) + widths[level - 1] * width + norm(width)
    for fine, coarse in itertools.pairwise(widths):
        total += corner * coarse * fine + fine + unit(2 * fine, fine)
    return total + widths[0] * OUT + OUT


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("size", "depth"), [("m", 6), ("l", 6), ("xl", 7)])
def test_resenc_has_exactly_the_published_parameters(size: str, depth: int, dims: int) -> None:
    widths = (32, 64, 128, 256, 320, 320, 320)[:depth]
    formula = residual_encoder(widths, (1, 3, 4, 6, 6, 6, 6)[:depth], dims)
    assert one_head(on_meta("resenc_unet", size, spatial_dims=dims, out_channels=OUT)) == formula
    if (size, dims) == ("l", 3):  # the released one has biases before its norms, and heads of deep supervision
        biases = 32 + 2 * sum(n * width for n, width in zip((1, 3, 4, 6, 6, 6), widths, strict=True)) + sum(widths[:-1])
        heads = sum((width + 1) * OUT for width in widths[1:-1])
        assert round((formula + biases + heads) / 1e6, 1) == 102.4


def segmamba(channels: int, out: int, dims: int) -> int:
    """The released network: norms without gain, convolutions of the decoder without bias, two scans a stage."""
    cube, corner, widths = 3**dims, 2**dims, (48, 96, 192, 384)

    def residual(into: int, width: int) -> int:
        return cube * (into * width + width * width) + (into * width if into != width else 0)

    def stage(c: int) -> int:
        gsc = 2 * (cube * c * c + c) + 2 * (c * c + c)
        skip = 4 * c * c + 3 * c
        return gsc + skip + 2 * (norm(c) + mamba(c, 3, 4))

    total = 7**dims * channels * widths[0] + widths[0] + residual(channels, widths[0]) + sum(map(stage, widths))
    total += sum(corner * a * b + b for a, b in itertools.pairwise(widths))
    skips = (48, *(2 * width for width in widths))
    total += sum(residual(width, 2 * width) for width in widths)
    total += sum(corner * a * b + residual(2 * a, a) for a, b in itertools.pairwise(skips))
    return total + residual(48, 48) + 48 * out + out


@pytest.mark.parametrize(("channels", "dims"), [(1, 3), (4, 3), (3, 2)])
def test_segmamba_has_exactly_the_released_parameters(channels: int, dims: int) -> None:
    network = on_meta("segmamba", "published", spatial_dims=dims, in_channels=channels, out_channels=2)
    assert one_head(network) == segmamba(channels, 2, dims)
    if (channels, dims) == (1, 3):
        assert round(segmamba(1, 2, 3) / 1e6, 2) == 67.36  # as papers that compare with it print


CSWIN = {"t": (64, (1, 2, 21, 1), 22.3), "s": (64, (2, 4, 32, 2), 34.6), "b": (96, (2, 4, 32, 2), 77.4)}


@pytest.mark.parametrize("size", CSWIN)
def test_cswin_has_exactly_its_parameters(size: str) -> None:
    c, counts, millions = CSWIN[size]
    widths = [c * 2**stage for stage in range(4)]
    total = 49 * 3 * c + c + norm(c) + classifier(c)
    total += sum(9 * a * b + b + norm(b) for a, b in itertools.pairwise(widths))
    total += sum(n * (2 * norm(w) + attention(w) + 10 * w + mlp(w, 4)) for n, w in zip(counts, widths, strict=True))
    levels = on_meta("cswin", size, spatial_dims=2, in_channels=3).encoder.levels
    found = sum(count(level.entry) + count(level.body) for level in list(levels)[2:])
    assert found + classifier(c) == total
    assert round(total / 1e6, 1) == pytest.approx(millions, abs=0.051)


@pytest.mark.parametrize(("size", "form"), [("s", (384, 12, 6)), ("b", (768, 12, 12)), ("l", (1024, 24, 16))])
def test_vir_has_exactly_the_parameters_of_its_blocks(size: str, form: tuple[int, int, int]) -> None:
    """A transformer of patches of 16; a norm per head, two gains a block, and tables of 14 positions per axis are ours."""
    width, blocks, heads = form
    trunk = on_meta("vir", size, spatial_dims=2, in_channels=3).encoder.levels[-1]
    block = 2 * norm(width) + attention(width) + width // heads + mlp(width, 4) + 2 * width
    assert count(trunk.body) == blocks * block
    assert count(trunk.entry) == (3 * 256 + 1) * width + 2 * 14 * width
    assert width * CLASSES + CLASSES + count(trunk.body) < {"s": 23e6, "b": 87e6, "l": 305e6}[size]
