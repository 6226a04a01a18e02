"""Generation token by token gives what whole forward passes give, and draws only from what it is told to."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from medseg_kernels.compat import UnknownOptionError
from medseg_kernels.compat.generation import GenerationMixin, InferenceParams, sample
from medseg_kernels.compat.mamba_ssm import Mamba, Mamba2
from medseg_kernels.compat.mamba_ssm.utils.hf import load_config_hf


class Language(nn.Module, GenerationMixin):
    """Two layers, one of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(11, 8), nn.Linear(8, 11)
        self.layers = nn.ModuleList([Mamba(8, layer_idx=0), Mamba2(8, headdim=4, d_state=4, layer_idx=1)])

    def forward(self, tokens: Tensor, inference_params: InferenceParams | None = None) -> Tensor:
        x = self.embed(tokens)
        for layer in self.layers:
            x = x + layer(x, inference_params=inference_params)
        return self.head(x)


def test_greedy_generation_equals_whole_forward_passes() -> None:
    torch.manual_seed(0)
    model, tokens = Language(), torch.tensor([[1, 2, 3], [4, 5, 6]])
    found = model.generate(tokens, max_length=10)
    with torch.no_grad():
        while tokens.shape[1] < 10:
            tokens = torch.cat([tokens, model(tokens)[:, -1].argmax(-1, keepdim=True)], 1)
    assert found.tolist() == tokens.tolist()


def test_generation_ends_with_the_end_and_refuses_what_it_does_not_know() -> None:
    torch.manual_seed(0)
    model, tokens = Language(), torch.tensor([[1, 2, 3]])
    first = int(model.generate(tokens, max_length=4)[0, 3])
    assert model.generate(tokens, max_length=10, eos_token_id=first).shape == (1, 4)
    with pytest.raises(UnknownOptionError, match="cg=True"):
        model.generate(tokens, max_length=4, cg=True)
    with pytest.raises(NotImplementedError, match="hub"):
        load_config_hf("a-model")


def test_tokens_are_drawn_from_the_likeliest_only() -> None:
    torch.manual_seed(0)
    logits = torch.tensor([[5.0, 4.0, 0.0, -1.0]]).expand(500, -1)
    assert set(sample(logits).tolist()) == {0}
    assert set(sample(logits, top_k=2).tolist()) == {0, 1}
    assert set(sample(logits, top_k=0, top_p=0.5).tolist()) == {0}
    assert set(sample(logits, top_k=0, temperature=50.0).tolist()) == {0, 1, 2, 3}


def test_a_record_begins_anew() -> None:
    params = InferenceParams(4, 2, seqlen_offset=3, lengths_per_sample=torch.ones(2))
    params.reset(9, 1)
    assert (params.max_seqlen, params.max_batch_size, params.seqlen_offset) == (9, 1, 0)
    assert params.lengths_per_sample.sum() == 0
