"""NEFTune's noise: as large for a packed row as for the row by itself, and in training alone."""

import math

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from finery_trainer.recipes.neftune import noisy_embeddings, row_lengths

SIZE = 64
POSITIONS = torch.tensor([[0, 1, 2, 3, 2, 3, 4, 5, 0, 1]])
"""A beginning of two tokens that two rows of 4 and 6 share, and a row of 2."""


def tiny() -> LlamaForCausalLM:
    shape = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    return LlamaForCausalLM(LlamaConfig(vocab_size=16, hidden_size=SIZE, **shape))


def embedded(model: LlamaForCausalLM, alpha: float | None) -> torch.Tensor:
    seen: list[torch.Tensor] = []
    handle = model.model.layers[0].register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    with noisy_embeddings(model, alpha):
        model(input_ids=torch.ones(1, 10, dtype=torch.long), position_ids=POSITIONS)
    handle.remove()
    return seen[0][0]


def test_lengths_of_packed_rows() -> None:
    assert row_lengths(POSITIONS).tolist() == [[4, 4, 4, 4, 6, 6, 6, 6, 2, 2]]


def test_the_noise_has_the_size_that_the_row_asks_for() -> None:
    model = tiny().train()
    noise = embedded(model, 5.0) - embedded(model, None)
    for tokens, length in ((slice(0, 4), 4), (slice(4, 8), 6), (slice(8, 10), 2)):
        limit = 5.0 / math.sqrt(length * SIZE)
        assert noise[tokens].abs().max() <= limit
        assert noise[tokens].abs().max() > 0.9 * limit
        assert noise[tokens].mean().abs() < 0.2 * limit


def test_there_is_none_in_evaluation_and_none_is_left_behind() -> None:
    model = tiny().train()
    clean = embedded(model, None)
    assert not torch.equal(embedded(model, 5.0), clean)
    assert torch.equal(embedded(model, None), clean)
    assert torch.equal(embedded(model.eval(), 5.0), clean)
