"""The selective scan in torch, chunk by chunk: what runs without a compiler or a GPU, and in scripted or exported models.

Within a chunk the linear recurrence is solved level by level (`linear_scan`), so that a chunk costs about a hundred operations
on whole tensors; memory is that of one chunk, not of the sequence. Only products of decays appear, never their quotients, so
nothing overflows however strong the decay is. Names and shapes as in reference.py.
"""

from __future__ import annotations

from typing import List, Optional, Tuple

import torch
from torch import Tensor
from torch.nn import functional

from ..traversals.curves import split_heads, traversal_order, traversal_pieces
from .reference import merge_traversals, pick, pick_row, saturated

# These reach scripted functions as default arguments: TorchScript reads no globals.
CHUNK = 1024  # steps solved at once, where the cost of many small operations and of large ones meet
CHUNK_RECORDED = 8192  # the same in traced and exported models, whose graphs should stay small
RADIX = 16  # steps of a run on each level
CHECKPOINT = 64  # steps between the states that the forward keeps for the backward; divides CHUNK


def linear_scan(decay: Tensor, drive: Tensor, state: Tensor, radix: int = RADIX) -> Tensor:
    """All states of h_t = decay_t h_(t-1) + drive_t. Scriptable.

    Runs of `radix` steps are solved from a zero state; their ends and products of decays are such a recurrence again, `radix`
    times shorter. From the top down, every run then adds what its true start contributes.

    Args:
        decay: (B, T, C, S).
        drive: (B, T, C, S).
        state: (B, C, S), before the first step.
        radix: steps of a run.

    Returns:
        (B, T, C, S).
    """
    locals_: List[Tensor] = []
    totals: List[Tensor] = []
    sizes: List[int] = []
    before = state.unsqueeze(1)
    while drive.shape[1] > 1:
        steps = drive.shape[1]
        count = (steps + radix - 1) // radix
        pad = count * radix - steps
        if pad > 0:
            decay = torch.cat([decay, torch.ones_like(decay[:, :1]).expand(-1, pad, -1, -1)], 1)
            drive = torch.cat([drive, torch.zeros_like(drive[:, :1]).expand(-1, pad, -1, -1)], 1)
        shape = [decay.shape[0], count, radix, decay.shape[2], decay.shape[3]]
        decays, drives = decay.reshape(shape).unbind(2), drive.reshape(shape).unbind(2)
        local, total = [drives[0]], [decays[0]]
        for t in range(1, radix):
            local.append(decays[t] * local[t - 1] + drives[t])
            total.append(decays[t] * total[t - 1])
        locals_.append(torch.stack(local, 2))
        totals.append(torch.stack(total, 2))
        sizes.append(steps)
        decay, drive = total[radix - 1], local[radix - 1]
    states = decay * before + drive
    for i in range(len(sizes)):
        level = len(sizes) - 1 - i
        starts = torch.cat([before, states[:, : states.shape[1] - 1]], 1)
        states = (locals_[level] + totals[level] * starts.unsqueeze(2)).flatten(1, 2)[:, : sizes[level]]
    return states


def step_size(delta: Tensor, bias: Optional[Tensor], delta_softplus: bool) -> Tensor:
    """delta after bias and softplus. Scriptable."""
    if bias is not None:
        delta = delta + bias
    return functional.softplus(delta, threshold=20.0) if delta_softplus else delta


def per_channel(x: Tensor, channels: int, first: int, last: int) -> Tensor:
    """(B, T, G, S) -> (B, T, last - first, S), or (B, T, 1, S) when there is one group. Scriptable."""
    groups = x.shape[2]
    if groups == 1:
        return x
    index = torch.div(torch.arange(first, last, device=x.device) * groups, channels, rounding_mode="floor")
    return x.index_select(2, index)


def begin_mask(pieces: List[int], device: torch.device) -> Optional[Tensor]:
    """(N,) bool: the steps at which the state starts anew; None when that is the first step only. Scriptable."""
    if len(pieces) <= 2:
        return None
    mask = torch.zeros(pieces[len(pieces) - 1], dtype=torch.bool, device=device)
    mask[torch.tensor(pieces[: len(pieces) - 1], device=device)] = True
    return mask


def restart(decay: Tensor, drive: Tensor, start: Tensor, begins: Optional[Tensor], first: int) -> Tuple[Tensor, Tensor]:
    """Decay and drive such that h_(t-1) is `start` at every step that begins a piece. Scriptable.

    Args:
        decay: (B, T, C, S).
        drive: (B, T, C, S).
        start: (B, C, S), state at the first step of a piece.
        begins: (N,) bool or None.
        first: number of the first of the T steps.
    """
    if begins is None:
        return decay, drive
    here = begins[first : first + decay.shape[1]].view(1, -1, 1, 1)
    return (
        torch.where(here, torch.zeros_like(decay), decay),
        torch.where(here, drive + decay * start.unsqueeze(1), drive),
    )


def _scan_head(
    u: Tensor, step: Tensor, rate: Tensor, write: Tensor, read: Tensor, start: Tensor, order: Tensor, begins: Optional[Tensor],
    chunk: int = CHUNK, keep: int = CHECKPOINT,
) -> Tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """One traversal of the channels that share it. Scriptable.

    Returns:
        y (B, N, C) without skip, last state (B, C, S), states before every CHECKPOINT-th step (B, K, C, S).
    """
    state = start
    parts: List[Tensor] = []
    kept: List[Tensor] = []
    for first in range(0, order.shape[0], chunk):
        rows = order[first : first + chunk]
        delta = step.index_select(1, rows)
        decay = torch.exp(delta.unsqueeze(-1) * rate)
        drive = (delta * u.index_select(1, rows)).unsqueeze(-1) * write.index_select(1, rows)
        decay, drive = restart(decay, drive, start, begins, first)
        states = linear_scan(decay, drive, state)
        kept.append(torch.cat([state.unsqueeze(1), states[:, keep - 1 : states.shape[1] - 1 : keep]], 1))
        state = states[:, states.shape[1] - 1]
        parts.append((states * read.index_select(1, rows)).sum(-1))
    y = torch.cat(parts, 1)
    return y.index_select(1, torch.argsort(order)), state, torch.cat(kept, 1)


def chunked_scan(
    u: Tensor,
    delta: Tensor,
    rate: Tensor,
    write: Tensor,
    read: Tensor,
    skip: Optional[Tensor],
    z: Optional[Tensor],
    bias: Optional[Tensor],
    initial_state: Optional[Tensor],
    weights: Optional[Tensor],
    grid: List[int],
    traversals: List[str],
    delta_softplus: bool,
    merge: str,
    chunk: int = CHUNK,
) -> Tuple[Tensor, Tensor, Tensor]:
    """As `reference_scan`; computed in float32 (float64 for float64 inputs), outputs in the dtype of `u`. Scriptable.

    Args:
        chunk: steps solved at once, a multiple of CHECKPOINT; the other arguments as there.

    Returns:
        outputs and last states as `reference_scan`, and the states before every CHECKPOINT-th step (B, R, K, S, C).
    """
    work = torch.float64 if u.dtype == torch.float64 else torch.float32
    channels = u.shape[3]
    ys: List[Tensor] = []
    states: List[Tensor] = []
    kept: List[Tensor] = []
    for r in range(len(traversals)):
        orders = traversal_order(traversals[r], grid, u.device)
        names = split_heads(traversals[r])
        width = channels // len(names)
        x = pick(u, r).to(work)
        step = step_size(pick(delta, r).to(work), None if bias is None else pick_row(bias, r), delta_softplus)
        heads: List[Tuple[Tensor, Tensor, Tensor]] = []
        for h in range(len(names)):
            first, last = h * width, (h + 1) * width
            if initial_state is None:
                start = torch.zeros([u.shape[0], width, rate.shape[2]], dtype=work, device=u.device)
            else:
                start = initial_state[:, r, first:last].to(work)
            heads.append(
                _scan_head(
                    x[:, :, first:last], step[:, :, first:last], pick_row(rate, r)[first:last].to(work),
                    per_channel(pick(write, r).to(work), channels, first, last),
                    per_channel(pick(read, r).to(work), channels, first, last), start, orders[h],
                    begin_mask(traversal_pieces(names[h], grid), u.device), chunk,
                )
            )  # fmt: skip
        y = torch.cat([head[0] for head in heads], -1)
        ys.append(y if skip is None else y + pick_row(skip, r) * x)
        states.append(torch.cat([head[1] for head in heads], 1))
        kept.append(torch.cat([head[2] for head in heads], 2))
    out = merge_traversals(ys, merge, weights)
    if z is not None:
        gate = functional.silu(z.to(work))
        out = out * (gate.repeat(1, 1, len(ys)) if merge == "concat" else gate)
    return saturated(out, u.dtype), torch.stack(states, 1), torch.stack(kept, 1).transpose(3, 4)
