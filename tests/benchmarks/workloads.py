"""Models of real shapes with random weights, and rows of the lengths that the guide's data has. For speed alone."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Qwen2Config

QWEN_7B = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 151936,
    "max_position_embeddings": 32768,
}
MEAN_LENGTH = 150
H100_PEAK = 989e12
"""Dense bf16 operations a second by the datasheet (SXM)."""


@dataclass(frozen=True)
class BenchmarkRow:
    """A tokenized row as the trainer takes it."""

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]


def rows(count: int, seed: int = 0, vocabulary: int = 151000) -> list[BenchmarkRow]:
    """Rows of 32 to 512 random tokens, 150 on average; the first quarter of each is not learned."""
    draw = random.Random(seed)
    spread = 0.45
    made = []
    for _ in range(count):
        length = round(draw.lognormvariate(math.log(MEAN_LENGTH) - spread**2 / 2, spread))
        length = min(512, max(32, length))
        ids = tuple(draw.randrange(vocabulary) for _ in range(length))
        made.append(BenchmarkRow(ids, tuple(-100 if i < length // 4 else ids[i] for i in range(length))))
    return made


def qwen_7b(attention: str, *, dropout: float = 0.0, layers: int = 32) -> Any:
    """A model of Qwen1.5-7B's shape in bf16 on the GPU, with a LoRA adapter (r 8, α 32, all linear layers) in fp32."""
    torch.manual_seed(0)
    config = Qwen2Config(**(QWEN_7B | {"num_hidden_layers": layers}), attn_implementation=attention)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        base = AutoModelForCausalLM.from_config(config)
    torch.set_default_dtype(torch.float32)
    base.config.use_cache = False
    lora = LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=32, lora_dropout=dropout, target_modules="all-linear")
    model = get_peft_model(base, lora)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.001)  # zeros would leave half of the gradients zero
    return model


def matmul_parameters(layers: int = 32) -> int:
    """Weights that a token is multiplied with, head included."""
    hidden, ffn = QWEN_7B["hidden_size"], QWEN_7B["intermediate_size"]
    return layers * (4 * hidden * hidden + 3 * hidden * ffn) + QWEN_7B["vocab_size"] * hidden


def tokens(made: Sequence[BenchmarkRow]) -> int:
    """Tokens of rows."""
    return sum(len(row.input_ids) for row in made)


def padded(made: Sequence[BenchmarkRow]) -> dict[str, Any]:
    """Rows as the usual collators lay them out: (rows, longest), filled up on the right."""
    longest = max(len(row.input_ids) for row in made)

    def filled(values: Sequence[int], value: int) -> list[int]:
        return [*values, *(value for _ in range(longest - len(values)))]

    return {
        "input_ids": torch.tensor([filled(row.input_ids, 0) for row in made]),
        "attention_mask": torch.tensor([filled([1] * len(row.input_ids), 0) for row in made]),
        "labels": torch.tensor([filled(row.labels, -100) for row in made]),
    }
