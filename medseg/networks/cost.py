"""Parameters, arithmetic and memory of a preset for a patch, without computing anything (shapes only).

The arithmetic of the kernels' operators and of attention on CPUs, into which torch's FlopCounterMode cannot look, is counted
here: two per multiply-add, forward pass. Recurrences and scans are counted in their step-by-step form, whatever form runs.
Windows that reach beyond the grid count as whole ones, masked pairs (causal, shifted, padding) as computed.
B batch, N tokens, C channels, H heads, E per-head channels, R traversals, S scan state, K V key and value channels.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

import medseg_kernels  # noqa: F401 - registers the operators named below

from .build import build_network

ADAM_COPIES = 4  # parameter, gradient, two moments


def measure(preset: str, size: str, roi_size: Sequence[int]) -> dict[str, float]:
    """What a training step on one patch of one channel costs.

    Args:
        preset, size: of `build_network`.
        roi_size: voxels per axis; two numbers for the 2D network.

    Returns:
        `parameters`; `flop` of a forward pass (two per multiply-add: convolutions, matrix products, attention, scans and
        recurrences as in COUNTS); `training_bytes`: saved activations plus parameters with gradients and AdamW's
        moments, in float32.
    """
    with FakeTensorMode():
        network = build_network(preset, size=size, spatial_dims=len(roi_size))
        image = torch.zeros(1, 1, *roi_size)
        weights = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
        saved: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in weights:
                saved[storage._cdata] = storage.nbytes()  # one entry per storage: views of a tensor share it
            return tensor

        counter = FlopCounterMode(display=False, custom_mapping=COUNTS)
        with counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            network(image)
    parameters = count_parameters(network)
    return {
        "parameters": parameters,
        "flop": float(counter.get_total_flops()),
        "training_bytes": float(sum(saved.values()) + ADAM_COPIES * 4 * parameters),
    }


def count_parameters(network: nn.Module) -> int:
    """Number of trained values."""
    return sum(math.prod(parameter.shape) for parameter in network.parameters())


Shape = Sequence[int]


def window_attention(qkv: Shape, *rest: Any, out_shape: Sequence[Shape]) -> int:
    """Scores and weighted sums of every window: its tokens and carriers with themselves, or those within the radius."""
    window_size, radius = rest[8], rest[10]
    batch, windows, heads, tokens = out_shape[2]
    keys = tokens
    if max(radius) >= 0:  # one window that covers the grid; a token sees its neighbourhood
        sides = [min(w, n) for w, n in zip(window_size, qkv[1:4], strict=True)]
        keys = math.prod(n if r < 0 else min(n, 2 * r + 1) for n, r in zip(sides, radius, strict=True))
    return 4 * batch * windows * heads * tokens * keys * qkv[-1]


def full_attention(q: Shape, k: Shape, v: Shape, *rest: object, **options: object) -> int:
    """Scores and weighted sum of torch's attention; q (B, H, N, E)."""
    pairs = q[0] * q[1] * q[2] * k[2]
    return 2 * pairs * (q[3] + v[3])


def short_conv(x: Shape, weight: Shape, *rest: object, **options: object) -> int:
    """Taps (R, C, T) over tokens (B, N, C)."""
    return 2 * x[0] * x[1] * math.prod(weight)


def selective_scan(u: Shape, delta: Shape, rate: Shape, *rest: object, out_shape: Sequence[Shape]) -> int:
    """Per token, channel and state: decay and write (a product each), new state and reading (a multiply-add each)."""
    return 6 * math.prod(out_shape[1]) * u[2]  # last states: (B, R, C, S)


def convolved_scan(u: Shape, taps: Shape, taps_bias: object, project: Shape, expand: Shape, rate: Shape, *rest: object,
                   out_shape: Sequence[Shape]) -> int:  # fmt: skip
    """Mamba's op: convolution, both projections and the scan."""
    batch, tokens, channels = u
    rows = max(taps[0], project[0])
    projections = 2 * batch * tokens * rows * channels * (project[1] + expand[2])
    scan = 6 * batch * out_shape[1][1] * tokens * channels * rate[2]  # kept states: (B, R, K, S, C)
    return short_conv(u, taps) + projections + scan


def linear_recurrence(q: Shape, k: Shape, v: Shape, g: object, beta: object, *rest: object, **options: object) -> int:
    """Per token and head, on a state of K x V: write and read, forgetting where gated, the old value where it is a delta rule."""
    delta = rest[5]
    per_state = 4 + (g is not None) + 2 * bool(delta)
    return per_state * math.prod(q[:3]) * q[3] * v[3]


def real_transform(real: Shape, axes: Sequence[int]) -> int:
    """A Fourier transform of real numbers: 2.5 N log2 N for each of the signals of N values."""
    points = math.prod(real[axis] for axis in axes)
    return int(2.5 * math.prod(real) * math.log2(max(points, 1)))


def to_frequencies(x: Shape, axes: Sequence[int], *rest: object, **options: object) -> int:
    """aten's transform of a real tensor."""
    return real_transform(x, axes)


def from_frequencies(x: Shape, axes: Sequence[int], *rest: object, out_shape: Shape, **options: object) -> int:
    """aten's transform to a real tensor."""
    return real_transform(out_shape, axes)


COUNTS: dict[Any, Callable[..., int]] = {
    torch.ops.aten._fft_r2c: to_frequencies,
    torch.ops.aten._fft_c2r: from_frequencies,
    torch.ops.medseg.window_attention: window_attention,
    torch.ops.medseg.short_conv: short_conv,
    torch.ops.medseg.selective_scan: selective_scan,
    torch.ops.medseg.convolved_scan: convolved_scan,
    torch.ops.medseg.gated_linear_recurrence: linear_recurrence,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: full_attention,
}
