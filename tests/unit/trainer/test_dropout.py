"""The masks of adapters on a CPU: as many zeros as asked for, scaled, repeatable, and where dropout belongs."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from finery_trainer.recipes.dropout import CpuDropout, quicken_dropout

SIZE = (301, 577)
"""Features whose number is no multiple of four."""


@pytest.mark.parametrize("probability", [0.05, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_share_is_zeroed_and_the_rest_scaled_up(probability: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    out = CpuDropout(probability)(torch.ones(SIZE, dtype=dtype))
    assert out.dtype is dtype
    zeroed = out == 0
    assert float(zeroed.float().mean()) == pytest.approx(probability, abs=0.005)
    for axis in (0, 1):  # no row and no column stands out
        shares = zeroed.float().mean(axis)
        assert (shares - probability).abs().max() < 6 * (probability * (1 - probability) / min(SIZE)) ** 0.5
    assert torch.allclose(out[~zeroed].float(), torch.tensor(1 / (1 - probability)), rtol=5e-3)


def test_gradients_pass_where_features_did() -> None:
    given = torch.randn(SIZE, requires_grad=True)
    out = CpuDropout(0.3)(given)
    out.sum().backward()
    assert given.grad is not None
    assert torch.equal(given.grad == 0, out == 0)
    assert torch.allclose(given.grad[out != 0], torch.tensor(1 / 0.7), rtol=1e-4)


def test_masks_follow_the_generator() -> None:
    layer, ones = CpuDropout(0.5), torch.ones(SIZE)
    torch.manual_seed(7)
    state = torch.get_rng_state()
    first, second = layer(ones), layer(ones)
    assert not torch.equal(first, second)
    torch.set_rng_state(state)
    assert torch.equal(layer(ones), first)
    assert torch.equal(layer(ones), second)


def test_extremes_and_evaluation() -> None:
    ones = torch.ones(SIZE)
    assert torch.equal(CpuDropout(0.0)(ones), ones)
    assert not CpuDropout(1.0)(ones).any()
    assert torch.equal(CpuDropout(0.5).eval()(ones), ones)


def test_an_adapters_dropout_is_replaced_and_nothing_else() -> None:
    shape = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8, "hidden_size": 16}
    base = LlamaForCausalLM(LlamaConfig(vocab_size=16, **shape))
    base.other = nn.Dropout(0.1)
    model = get_peft_model(base, LoraConfig(r=2, lora_dropout=0.05, target_modules=["q_proj", "down_proj"]))
    quicken_dropout(model)
    kinds = [type(module) for module in model.modules() if isinstance(module, nn.Dropout)]
    assert kinds.count(CpuDropout) == 4
    assert kinds.count(nn.Dropout) == 1
    assert all(module.p == 0.05 for module in model.modules() if isinstance(module, CpuDropout))
