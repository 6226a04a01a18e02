"""One call of window attention, checked and brought to three dimensions: what every backend is given.

The registered operator takes flat arguments, as torch's schemas want; a backend takes a `Problem`.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .windows import effective_window, product, windows_per_axis


@dataclass(frozen=True)
class Problem:
    """Tensors and settings of one call.

    Args:
        qkv: (B, X, Y, Z, 3, H, E); or q alone (B, X, Y, Z, H, E) if `kv` is given; or k and v (B, X, Y, Z, 2, H, E) if
            `global_query` is given.
        kv: (B, X, Y, Z, 2, H, E) or None.
        global_query: (B, T, H, E), the query of every window, or None.
        carriers: (B, W, M, 3, H, E) or None.
        sample: (B, 3, H, E) or None, added to q, k, v of all grid tokens.
        padding: (3, H, E) or None, what padded tokens hold.
        bias_table: (prod(2 table_window - 1), H) or None.
        dense_bias: (H, U, U) or None.
        seed: int64 (1,) or None.
        table_window: the window that the bias table was made for.
        window: effective tokens per axis.
        shift: effective shift per axis.
        radius: per axis, -1 for none.
        causal, geometry, pad_mode, bias_index, scale, dropout: as in the public function.
    """

    qkv: Tensor
    kv: Tensor | None
    global_query: Tensor | None
    carriers: Tensor | None
    sample: Tensor | None
    padding: Tensor | None
    bias_table: Tensor | None
    dense_bias: Tensor | None
    seed: Tensor | None
    table_window: list[int]
    window: list[int]
    shift: list[int]
    radius: list[int]
    causal: bool
    geometry: str
    pad_mode: str
    bias_index: str
    scale: float
    dropout: float

    @property
    def tensors(self) -> list[Tensor | None]:
        """The nine tensor arguments in the operator's order."""
        return [
            self.qkv,
            self.kv,
            self.global_query,
            self.carriers,
            self.sample,
            self.padding,
            self.bias_table,
            self.dense_bias,
            self.seed,
        ]

    @property
    def batch(self) -> int:
        """B."""
        return self.qkv.shape[0]

    @property
    def grid(self) -> list[int]:
        """[X, Y, Z]."""
        return list(self.qkv.shape[1:4])

    @property
    def heads(self) -> int:
        """H."""
        return self.qkv.shape[-2]

    @property
    def channels(self) -> int:
        """E."""
        return self.qkv.shape[-1]

    @property
    def counts(self) -> list[int]:
        """Windows per axis."""
        return windows_per_axis(self.grid, self.window)

    @property
    def windows(self) -> int:
        """W."""
        return product(self.counts)

    @property
    def extra(self) -> int:
        """M."""
        return 0 if self.carriers is None else self.carriers.shape[2]

    @property
    def tokens(self) -> int:
        """U = M + T."""
        return self.extra + product(self.window)

    @property
    def padded(self) -> bool:
        """Whether any window holds padding."""
        return any(
            count * size != length for count, size, length in zip(self.counts, self.window, self.grid, strict=True)
        )

    def roles(self, qkv: Tensor, kv: Tensor | None, query: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """(q, k, v) views of three tensors shaped like this problem's: each (B, X, Y, Z, H, E), or q (B, T, H, E)."""
        if query is not None:
            return query, qkv.select(4, 0), qkv.select(4, 1)
        if kv is not None:
            return qkv, kv.select(4, 0), kv.select(4, 1)
        return qkv.select(4, 0), qkv.select(4, 1), qkv.select(4, 2)


def output_shapes(
    qkv: Tensor, carriers: Tensor | None, window_size: list[int], shift_size: list[int]
) -> tuple[list[int], list[int], list[int]]:
    """Shapes of the operator's outputs: tokens, carriers, log-sum-exp (B, W, H, U)."""
    batch, grid, heads, channels = qkv.shape[0], list(qkv.shape[1:4]), qkv.shape[-2], qkv.shape[-1]
    window, _ = effective_window(grid, window_size, shift_size)
    windows = product(windows_per_axis(grid, window))
    extra = 0 if carriers is None else carriers.shape[2]
    body = [batch, *grid, heads * channels]
    return body, [batch, windows, extra, heads * channels], [batch, windows, heads, extra + product(window)]


@dataclass
class Gradients:
    """Gradients of a `Problem`'s tensors, in its order; None where the tensor is None."""

    qkv: Tensor
    kv: Tensor | None = None
    global_query: Tensor | None = None
    carriers: Tensor | None = None
    sample: Tensor | None = None
    padding: Tensor | None = None
    bias_table: Tensor | None = None
    dense_bias: Tensor | None = None

    def as_list(self) -> list[Tensor | None]:
        """The eight, in order."""
        return [
            self.qkv,
            self.kv,
            self.global_query,
            self.carriers,
            self.sample,
            self.padding,
            self.bias_table,
            self.dense_bias,
        ]
