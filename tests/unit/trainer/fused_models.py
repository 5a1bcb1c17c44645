"""Tiny models with LoRA adapters, and rows, for tests of the fused layers."""

import random
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from finery_trainer.recipes.attention import register
from finery_trainer.recipes.rows import Row

KINDS: dict[str, tuple[Any, Any, dict[str, int]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM, {}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 16}),
}


def tiny(kind: str, targets: Any = "all-linear", dtype: torch.dtype = torch.float32, **lora: Any) -> Any:
    """Two layers with grouped heads; norms, biases and B are random, so that nothing is left out by being 0 or 1."""
    torch.manual_seed(0)
    config, model, extra = KINDS[kind]
    base = model(
        config(
            vocab_size=97,
            hidden_size=64,
            intermediate_size=160,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            attn_implementation=register(),
            initializer_range=0.2,
            **extra,
        )
    ).to(dtype)
    with torch.no_grad():
        for name, parameter in base.named_parameters():
            if "norm" in name or "bias" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
        options = {"r": 4, "lora_alpha": 8, **lora}
        tuned = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", target_modules=targets, **options))
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    return tuned


def some_rows(count: int = 5) -> list[Row]:
    """Rows of 9 to 23 tokens that begin alike; the first five tokens aren't learned."""
    draw = random.Random(0)
    made = []
    for _ in range(count):
        ids = (1, 2, 3, *(draw.randrange(4, 97) for _ in range(draw.randint(6, 20))))
        made.append(Row(ids, tuple(-100 if i < 5 else token for i, token in enumerate(ids))))
    return made


def gradients(model: Any) -> dict[str, Tensor]:
    """Gradients by parameter; the model's own are cleared."""
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def distance(one: Tensor, other: Tensor) -> float:
    """Relative error in the Euclidean norm."""
    return ((one.float() - other.float()).norm() / other.float().norm()).item()
