"""Fused layers compute what transformers' layers and PEFT's adapters compute, forward and backward."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from finery_trainer.recipes.collator import pack, pack_apart
from finery_trainer.recipes.fused.fuse import FusedModel, fuse, unfusable
from finery_trainer.recipes.fused.groups import UnfusableError
from finery_trainer.recipes.fused.head import LinearCrossEntropy
from finery_trainer.recipes.fused.products import Float8Product
from finery_trainer.recipes.fused.torch_operations import TorchOperations, keep
from tests.unit.trainer.fused_models import distance, gradients, some_rows, tiny

SEEDS = torch.tensor([12345, 67890], dtype=torch.int32)


def plain_loss(model: Any, batch: Mapping[str, Any]) -> Tensor:
    loss: Tensor = model(**batch, use_cache=False).loss
    return loss


def fused_loss(model: Any, fused: FusedModel, batch: Mapping[str, Any], **extra: Any) -> Tensor:
    inputs = {name: batch[name] for name in ("input_ids", "position_ids", "segments")}
    with fused.head.deferred():
        states = model(**inputs, **extra, use_cache=False).logits
    targets = batch["labels"][0]
    return fused.head.loss(states.flatten(0, 1), batch["logits_to_keep"], targets) / (targets >= 0).sum()


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize(
    "targets", ["all-linear", ["q_proj", "v_proj"], ["k_proj", "up_proj", "down_proj"]], ids=["all", "qv", "k-up-down"]
)
def test_losses_and_gradients_are_those_of_transformers_and_peft(kind: str, targets: Any) -> None:
    model, batch = tiny(kind, targets), pack(some_rows())
    expected = plain_loss(model, batch)
    expected.backward()
    by_peft = gradients(model)
    fused = fuse(model)
    for checkpointing in (False, True):
        fused.checkpoint(checkpointing)
        loss = fused_loss(model, fused, batch)
        loss.backward()
        ours = gradients(model)
        torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
        assert ours.keys() == by_peft.keys()
        assert max(distance(ours[name], by_peft[name]) for name in by_peft) < 1e-5


def test_bf16_stays_within_its_rounding() -> None:
    exact, rounded = tiny("qwen2"), tiny("qwen2", dtype=torch.bfloat16)
    batch = pack(some_rows())
    plain_loss(exact, batch).backward()
    expected = gradients(exact)
    fused_loss(rounded, fuse(rounded), batch).backward()
    ours = gradients(rounded)
    assert all(gradient.dtype == torch.float32 for gradient in ours.values())
    assert max(distance(ours[name], expected[name]) for name in expected) < 0.1


def test_rslora_scales_as_peft_does() -> None:
    model, batch = tiny("llama", use_rslora=True, lora_alpha=16), pack(some_rows())
    expected = plain_loss(model, batch)
    torch.testing.assert_close(fused_loss(model, fuse(model), batch), expected, rtol=1e-6, atol=1e-6)


def test_what_is_not_packed_is_computed_as_ever() -> None:
    model = tiny("qwen2").eval()
    ids = torch.tensor([some_rows()[0].input_ids])
    expected = model(input_ids=ids).logits
    fuse(model)
    torch.testing.assert_close(model(input_ids=ids).logits, expected)


def test_parameters_keep_their_names_and_values() -> None:
    model = tiny("qwen3")
    before = {name: parameter.clone() for name, parameter in model.state_dict().items()}
    fuse(model)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_filling_has_no_effect() -> None:
    model = tiny("llama")
    fused, rows = fuse(model), some_rows()
    fused_loss(model, fused, pack(rows)).backward()
    expected = gradients(model)
    batch = pack_apart(rows, tokens=128, predictions=96, boundaries=32)
    assert batch["input_ids"].shape == (1, 128)
    assert (batch["labels"].shape, batch["starts"].shape) == ((1, 96), (32,))
    fused_loss(model, fused, batch).backward()
    ours = gradients(model)
    assert max(distance(ours[name], expected[name]) for name in expected) < 1e-5


def test_dropout_masks_each_adapters_input_and_repeats_itself() -> None:
    model, batch = tiny("llama", lora_dropout=0.3), pack(some_rows())
    fused = fuse(model.train())
    losses = [fused_loss(model, fused, batch, dropout_seeds=seeds) for seeds in (SEEDS, SEEDS, SEEDS + 1)]
    assert losses[0] == losses[1] != losses[2]
    assert fused_loss(model.eval(), fused, batch, dropout_seeds=SEEDS) not in losses


def test_gradients_under_dropout_are_those_of_its_masks() -> None:
    model, batch = tiny("llama", lora_dropout=0.3, dtype=torch.float64), pack(some_rows())
    fused = fuse(model.train())
    fused_loss(model, fused, batch, dropout_seeds=SEEDS).backward()
    analytic = gradients(model)
    step = 1e-3
    for name in ("layers.0.self_attn.k_proj.lora_A", "layers.1.mlp.down_proj.lora_A", "layers.0.mlp.up_proj.lora_B"):
        found, parameter = next((n, p) for n, p in model.named_parameters() if name in n)
        direction = torch.randn_like(parameter)
        values = []
        with torch.no_grad():
            for sign in (1, -2):
                parameter.add_(direction, alpha=sign * step)
                values.append(fused_loss(model, fused, batch, dropout_seeds=SEEDS).item())
            parameter.add_(direction, alpha=step)
        slope = (values[0] - values[1]) / (2 * step)
        assert slope == pytest.approx(float((analytic[found] * direction).sum()), rel=0.02, abs=2e-4)


def test_masks_drop_their_share_and_differ_between_adapters() -> None:
    one, other = (keep((200, 300), 0.05, SEEDS, adapter) for adapter in (0, 1))
    assert 1 - one.float().mean().item() == pytest.approx(0.05, abs=0.004)
    both = (~one & ~other).float().mean().item()
    assert both == pytest.approx(0.0025, abs=0.001)


def test_linear_cross_entropy_is_torchs() -> None:
    torch.manual_seed(1)
    hidden = torch.randn(20, 16, requires_grad=True)
    weight = torch.randn(50, 16)
    positions, targets = torch.tensor([3, 1, 19, 7, 8, 0]), torch.tensor([4, 49, 0, 7, 7, -100])
    total = LinearCrossEntropy.apply(hidden, weight, positions, targets, TorchOperations(torch.float32), 4)
    (total / 5).backward()
    ours, hidden.grad = hidden.grad, None
    expected = cross_entropy(hidden[positions] @ weight.t(), targets, reduction="sum")
    (expected / 5).backward()
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(ours, hidden.grad)


def test_fp8_stays_close_and_frees_the_weights() -> None:
    exact, model = tiny("llama"), tiny("llama")
    batch = pack(some_rows())
    expected = plain_loss(exact, batch)
    expected.backward()
    by_peft = gradients(exact)
    fused = fuse(model, float8=True)
    assert not any(name.endswith("proj.base_layer.weight") for name, _ in model.named_parameters())
    loss = fused_loss(model, fused, batch)
    loss.backward()
    ours = gradients(model)
    assert loss.item() == pytest.approx(expected.item(), rel=0.02)
    whole = [torch.cat([part[name].flatten() for name in by_peft]) for part in (ours, by_peft)]
    assert torch.cosine_similarity(whole[0], whole[1], dim=0) > 0.9  # random weights amplify what is rounded
    ids = torch.tensor([some_rows()[0].input_ids])
    assert distance(model(input_ids=ids).logits, exact(input_ids=ids).logits) < 0.2


def test_fp8_products_err_by_the_rounding_of_their_factors() -> None:
    """Three bits of mantissa err by 2.6 % of a value on average, two factors by 3.7 % of a product."""
    torch.manual_seed(2)
    weight, bias = torch.randn(96, 256), torch.randn(96)
    product = Float8Product(weight, bias, TorchOperations(torch.float32))
    x, g = torch.randn(64, 256), torch.randn(64, 96)
    assert 0.01 < distance(product.forward(x) - bias, x @ weight.t()) < 0.045
    assert 0.01 < distance(product.backward(g, None), g @ weight) < 0.045


def test_rows_in_e4m3_keep_three_bits() -> None:
    x = torch.randn(32, 100) * torch.logspace(-3, 3, 32)[:, None]
    values, scales = TorchOperations(torch.float32).quantize(x)
    error = (values.float() * scales - x).abs()
    assert (error <= x.abs() / 16 + x.abs().amax(1, keepdim=True) / 448 / 512).all()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"r": 256}, "rank 256"),
        ({"rank_pattern": {"q_proj": 8}}, "differ"),
        ({"modules_to_save": ["lm_head"]}, "head"),
    ],
    ids=["dora", "rank", "ranks", "head"],
)
def test_what_cant_be_fused_is_named(change: dict[str, Any], reason: str) -> None:
    model = tiny("llama", **change)
    assert reason in unfusable(model)
    with pytest.raises(UnfusableError, match=reason):
        fuse(model)
