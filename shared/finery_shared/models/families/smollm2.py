"""SmolLM2 (Hugging Face, Apache-2.0): small Llama models, ChatML. https://arxiv.org/abs/2502.02737."""

from __future__ import annotations

from finery_shared.models.shape import ModelShape
from finery_shared.models.spec import ModelSpec, Recipe

_SHAPES = {
    "135M": ModelShape(576, 1536, layers=30, heads=9, kv_heads=3, vocab_size=49152),
    "360M": ModelShape(960, 2560, layers=32, heads=15, kv_heads=5, vocab_size=49152),
    "1.7B": ModelShape(2048, 8192, layers=24, heads=32, kv_heads=32, vocab_size=49152),
}

_SMALL = Recipe(
    learning_rate=2e-3,
    num_train_epochs=1.0,
    batch_size=8,
    gradient_accumulation_steps=1,
    lora_rank=8,
    lora_alpha=32,
    lora_dropout=0.0,
)

_RECIPES = {"135M": _SMALL, "360M": _SMALL, "1.7B": Recipe()}


def _spec(size: str) -> ModelSpec:
    return ModelSpec(
        model_type=f"smollm2-{size.lower().replace('.', '_')}-instruct",
        family="smollm2",
        architecture="LlamaForCausalLM",
        template="smollm2",
        shape=_SHAPES[size],
        hf_id=f"HuggingFaceTB/SmolLM2-{size}-Instruct",
        ms_id=f"HuggingFaceTB/SmolLM2-{size}-Instruct",
        default_system="You are a helpful AI assistant named SmolLM, trained by Hugging Face",
        stop_tokens=("<|im_end|>",),
        max_model_len=8192,
        recipe=_RECIPES[size],
        identity=("SmolLM", "Hugging Face", "HuggingFace"),
    )


SPECS = tuple(_spec(size) for size in _SHAPES)
