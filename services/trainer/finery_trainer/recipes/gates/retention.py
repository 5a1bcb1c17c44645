"""What a tuned model still knows: perplexity on text that nothing is trained on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from finery_shared.datasets import heldout_conversations, heldout_texts
from finery_shared.templates import render
from finery_trainer.recipes.collator import pack
from finery_trainer.recipes.rows import Row


def general_rows(tokenizer: Any) -> tuple[Row, ...]:
    """Held-out rows of the kind that is trained on; their answers alone count."""
    rendered = (render(tokenizer, row.messages) for row in heldout_conversations())
    return tuple(Row(row.token_ids, tuple(row.labels())) for row in rendered)


def text_rows(tokenizer: Any) -> tuple[Row, ...]:
    """Held-out passages of another kind, without any chat template; every token but the first counts."""
    encoded = (tuple(tokenizer.encode(text, add_special_tokens=False)) for text in heldout_texts())
    return tuple(Row(ids, (-100, *ids[1:])) for ids in encoded)


def perplexity(model: Any, rows: Sequence[Row], between: Callable[[], None], batch_size: int = 12) -> float:
    """Exp of the mean negative log-likelihood of all learned tokens, in nats. ``between`` is called before a batch."""
    total, tokens = 0.0, 0
    for start in range(0, len(rows), batch_size):
        between()
        packed = pack(rows[start : start + batch_size])
        batch = {name: value.to(model.device) if torch.is_tensor(value) else value for name, value in packed.items()}
        learned = batch["labels"].numel()
        with torch.inference_mode():
            total += float(model(**batch, use_cache=False).loss) * learned
        tokens += learned
    return math.exp(total / tokens)
