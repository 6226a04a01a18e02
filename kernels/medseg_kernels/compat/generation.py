"""What code that generates token by token takes from mamba_ssm: the record of states, and `generate`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Optional

import torch
from torch import Tensor

from .options import refuse_unknown


@dataclass
class InferenceParams:
    """States of a model's layers while it generates.

    Args:
        max_seqlen, max_batch_size: bounds that the caller keeps to.
        seqlen_offset: tokens seen so far; 0 fills the states, more takes a step.
        batch_size_offset: kept for code that sets it.
        key_value_memory_dict: states by layer_idx.
        lengths_per_sample: (B,) or None.
    """

    max_seqlen: int
    max_batch_size: int
    seqlen_offset: int = 0
    batch_size_offset: int = 0
    key_value_memory_dict: dict[Any, Any] = field(default_factory=dict)
    lengths_per_sample: Optional[Tensor] = None

    def reset(self, max_seqlen: int, max_batch_size: int) -> None:
        """Begin anew with other bounds; states stay and are filled again."""
        self.max_seqlen, self.max_batch_size, self.seqlen_offset = max_seqlen, max_batch_size, 0
        if self.lengths_per_sample is not None:
            self.lengths_per_sample.zero_()


def sample(logits: Tensor, top_k: int = 1, top_p: float = 0.0, temperature: float = 1.0) -> Tensor:
    """(B, V) logits -> (B,) tokens: the likeliest (top_k=1), or drawn from the top_k (0: all) and the top_p of them."""
    if top_k == 1:
        return logits.argmax(-1)
    kept, tokens = torch.sort(logits / temperature, descending=True)
    if top_k > 0:
        kept, tokens = kept[:, :top_k], tokens[:, :top_k]
    if 0.0 < top_p < 1.0:
        share = torch.softmax(kept, -1)
        kept = kept.masked_fill(share.cumsum(-1) - share >= top_p, -torch.inf)
    return tokens.gather(1, torch.multinomial(torch.softmax(kept, -1), 1)).squeeze(1)


class GenerationMixin:
    """Adds `generate` to a model whose forward takes (tokens, inference_params=...) and returns logits, or a record of them."""

    def allocate_inference_cache(self, batch_size: int, max_seqlen: int, dtype: Any = None, **options: Any) -> Any:
        raise NotImplementedError

    @torch.inference_mode()
    def generate(
        self, input_ids: Tensor, max_length: int, top_k: int = 1, top_p: float = 0.0, temperature: float = 1.0,
        eos_token_id: Optional[int] = None, **unknown: object,
    ) -> Tensor:  # fmt: skip
        """(B, L) tokens -> (B, up to max_length) with the new ones behind them.

        Raises:
            UnknownOptionError: an option that is not known (`cg`, `return_dict_in_generate`, `streamer` ...).
        """
        refuse_unknown("generate", {name: value for name, value in unknown.items() if value})
        params = InferenceParams(max_seqlen=max_length, max_batch_size=input_ids.shape[0])
        tokens, step = input_ids, input_ids
        while tokens.shape[1] < max_length:
            logits = self(step, inference_params=params)  # type: ignore[operator]
            logits = getattr(logits, "logits", logits)[:, -1]
            params.seqlen_offset += step.shape[1]
            step = sample(logits, top_k, top_p, temperature).unsqueeze(1)
            tokens = torch.cat([tokens, step], 1)
            if eos_token_id is not None and bool((step == eos_token_id).all()):
                break
        return tokens
