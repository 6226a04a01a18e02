"""Vision retention (ViR): linear attention whose every head forgets at a constant rate, in 1D or octant order.

B batch, X Y Z grid, H heads, E per-head channels, P tokens of a plane (Y * Z).
Source: Hatamizadeh et al. 2023 (arXiv 2310.19731); the equations, not the softmax of the released parallel path, which
makes its three forms differ. The octant order carries the paper's 2D mask into 3D; the symmetric one looks in all directions.
"""

import math
from typing import List, Optional, Tuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg.errors import ConfigError
from medseg_kernels import gla, retention

from ..contract import Context, Site
from .masking import hide
from .parts import HeadNorm, check_heads, keep_from_decay, wide

ORDERS = ("raster", "octant", "octant_pair", "symmetric")
NORMS = ("none", "head", "concat")
DECAYS = ("fixed", "mm", "learned")


class Retention(nn.Module):
    """o_n = q_n sum_m g^distance(n, m) k_m^T v_m over the tokens m that come before n.

    Args:
        site: where it stands; its index chooses the corner from which octant orders start, so that blocks take turns.
        order: `raster` (before = earlier in memory order, distance in steps), `octant` (before = not beyond n on any
            axis, distance along the axes), `octant_pair` (an octant and the opposite one, each token counted once) or
            `symmetric` (all tokens, distance along the axes; not recurrent in time).
        out_norm: `head` (root mean square per head), `concat` (over all heads together) or `none` (as released; leans on a
            small layer scale).
        decay: `fixed` (the same constants in every layer, as published), `mm` (g is what is left after `reference_mm`
            millimetres, so that grids of different spacing forget over the same length) or `learned` (log(-log g)).
        spacing_mm: of the tokens per axis, for `mm`.
        reference_mm: spacing at which the published constants hold, for `mm`.
        gate: multiply the output by silu of a map of the tokens (RetNet; ViR has none).
    """

    log_decay: Tensor
    flips: List[int]
    opposite: List[int]
    powers: List[float]

    def __init__(self, site: Site, *, order: str = "octant", out_norm: str = "head", decay: str = "fixed",
                 spacing_mm: tuple[float, ...] | None = None, reference_mm: float = 1.0, gate: bool = False) -> None:  # fmt: skip
        super().__init__()
        check_heads(site, "retention")
        if order not in ORDERS or out_norm not in NORMS or decay not in DECAYS:
            raise ConfigError(
                f"retention: found order {order!r}, out_norm {out_norm!r}, decay {decay!r}; expected one of {ORDERS}, of "
                f"{NORMS} and of {DECAYS}"
            )
        self.num_heads, self.order, self.out_norm, self.gated = site.num_heads, order, out_norm, gate
        self.scale = (site.width // site.num_heads) ** -0.5
        turn = site.index % 8
        self.flips = [axis + 1 for axis in range(3) if turn >> axis & 1]
        self.opposite = [axis for axis in (1, 2, 3) if axis not in self.flips]
        self.traversals: List[str] = ["reversed raster" if site.index % 2 else "raster"]
        self.powers = axis_powers(site, order, decay, spacing_mm, reference_mm)
        self.qkv = nn.Linear(site.width, 3 * site.width)
        channels = site.width // site.num_heads
        self.norm: nn.Module = nn.Identity()
        if out_norm != "none":
            self.norm = HeadNorm(channels if out_norm == "head" else site.width)
        self.project = nn.Linear(site.width, site.width)
        self.gate: nn.Module = nn.Linear(site.width, site.width, bias=False) if gate else nn.Identity()
        decays = log_decays(site.num_heads).float()
        self.register_buffer("log_decay", decays, persistent=False)
        self.log_rate = keep_from_decay(nn.Parameter((-decays).log())) if decay == "learned" else None

    def forward(self, x: Tensor, context: Context) -> Tuple[Tensor, Context]:
        valid = context.valid
        x = hide(x, valid)
        q, k, v = self.qkv(x).unflatten(-1, [3, self.num_heads, -1]).unbind(-3)
        k = hide(k, valid)
        rate = self.log_rate
        log_decay = self.log_decay if x.dtype != torch.float64 else log_decays(self.num_heads).to(x.device)
        if rate is not None:
            log_decay = -torch.exp(wide(rate))
        if self.order == "raster":
            y = self.along_raster(q, k, v, log_decay, valid)
        else:
            y = self.over_grid(wide(q) * self.scale, wide(k), wide(v), log_decay)
        if self.out_norm == "concat":
            y = y.flatten(-2)
        y = self.norm(y).to(x.dtype)
        y = y if self.out_norm == "concat" else y.flatten(-2)
        if self.gated:
            y = y * functional.silu(self.gate(x))
        return self.project(y), context

    def along_raster(self, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, valid: Optional[Tensor]) -> Tensor:
        """One sequence; padding is passed over, so that it counts for no distance."""
        if valid is None:
            return retention(q, k, v, log_decay, scale=self.scale, traversals=self.traversals)[0]
        each = hide(log_decay.expand(list(k.shape[:-1])), valid)
        return gla(q, k, v, each, scale=self.scale, traversals=self.traversals)[0]

    def over_grid(self, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor) -> Tensor:
        """Octants and the symmetric form; q is scaled."""
        if self.order == "symmetric":
            return symmetric(q, k, v, log_decay, self.powers)
        y = octant(q, k, v, log_decay, self.flips, self.powers)
        if self.order == "octant_pair":
            itself = (q * k).sum(-1, keepdim=True) * v
            y = y + octant(q, k, v, log_decay, self.opposite, self.powers) - itself
        return y


def axis_powers(
    site: Site, order: str, decay: str, spacing_mm: tuple[float, ...] | None, reference_mm: float
) -> List[float]:
    """To which power of the decay one step along each axis fades: 1, or its length over the reference."""
    if decay != "mm":
        return [1.0, 1.0, 1.0]
    given = () if spacing_mm is None else tuple(float(mm) for mm in spacing_mm)
    if order == "raster" or len(given) != site.spatial_dims or min((*given, reference_mm)) <= 0:
        raise ConfigError(
            f"retention: decay 'mm': found order {order!r}, spacing_mm {spacing_mm}, reference_mm {reference_mm}; expected an "
            f"octant or symmetric order and {site.spatial_dims} positive spacings in mm"
        )
    return [mm / reference_mm for mm in (*given, reference_mm)[:3]]


def log_decays(num_heads: int) -> Tensor:
    """log(1 - exp(u)), u equally spaced from log(1/32) to log(1/512): decays from 0.96875 to 0.998047; in float64."""
    return torch.log1p(-torch.exp(torch.linspace(math.log(1 / 32), math.log(1 / 512), num_heads, dtype=torch.float64)))


def octant(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, flips: List[int], powers: List[float]) -> Tensor:
    """Retention from one corner of the grid, in time and memory linear in the number of planes.

        S[x, y, z] = sum over x' <= x, y' <= y, z' <= z of g^(x - x' + y - y' + z - z') k^T v,   o = q S

    Args:
        q, k, v: (B, X, Y, Z, H, E) at least in float32, q scaled.
        log_decay: (H,) log g.
        flips: axes of the tensors (1 to 3) along which the order runs backwards.
        powers: of g, per axis.
    """
    mask = plane_mask(q.shape[2], q.shape[3], log_decay, powers, False)
    return sweep(q.flip(flips), k.flip(flips), v.flip(flips), mask, log_decay * powers[0], True).flip(flips)


def symmetric(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, powers: List[float]) -> Tensor:
    """Retention over all tokens, o_n = q_n sum_m g^(distance along the axes) k_m^T v_m: forwards, and backwards without itself.

    Args: as in `octant`.
    """
    mask, fade = plane_mask(q.shape[2], q.shape[3], log_decay, powers, True), log_decay * powers[0]
    back = sweep(q.flip([1]), k.flip([1]), v.flip([1]), mask, fade, False).flip([1])
    return sweep(q, k, v, mask, fade, True) + back


def sweep(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, log_decay: Tensor, own_plane: bool) -> Tensor:
    """Plane after plane along X: inside a plane the masked product, from the planes before a state per token of a plane.

    Args:
        q, k, v: (B, X, Y, Z, H, E).
        mask: (H, P, P) weights inside a plane.
        log_decay: (H,) from a plane to the next.
        own_plane: whether a plane also reads itself.
    """
    shape = v.shape
    q, k, v = planes(q), planes(k), planes(v)
    decay = log_decay.exp().reshape([-1, 1, 1])
    state = torch.zeros(0)
    outputs: List[Tensor] = []
    for x in range(q.shape[0]):
        y = torch.zeros_like(v[x])
        if own_plane:
            y = ((q[x] @ k[x].transpose(-1, -2)) * mask) @ v[x]
        written = (k[x].unsqueeze(-1) * v[x].unsqueeze(-2)).flatten(-2)
        spread = mask @ written
        if x > 0:
            past = state.unflatten(-1, [q.shape[-1], v.shape[-1]])
            y = y + decay * (q[x].unsqueeze(-2) @ past).squeeze(-2)
            spread = spread + decay * state
        state = spread
        outputs.append(y)
    return torch.stack(outputs).permute(1, 0, 3, 2, 4).reshape(shape)


def planes(x: Tensor) -> Tensor:
    """(B, X, Y, Z, H, E) -> (X, B, H, P, E)."""
    return x.flatten(2, 3).permute(1, 0, 3, 2, 4)


def plane_mask(size_y: int, size_z: int, log_decay: Tensor, powers: List[float], two_sided: bool) -> Tensor:
    """(H, P, P): g^(distance along the axes), in one quadrant (neither axis lies ahead, else 0) or on all sides."""
    y = torch.arange(size_y, device=log_decay.device).repeat_interleave(size_z)
    z = torch.arange(size_z, device=log_decay.device).repeat(size_y)
    dy, dz = y.unsqueeze(1) - y, z.unsqueeze(1) - z
    distance = (dy.abs() * powers[1] + dz.abs() * powers[2]).to(log_decay.dtype)
    mask = torch.exp(distance * log_decay.reshape([-1, 1, 1]))
    return mask if two_sided else mask * ((dy >= 0) & (dz >= 0)).to(mask.dtype)
