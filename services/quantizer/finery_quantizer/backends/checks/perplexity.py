"""Perplexity on rows that no job trains on or calibrates with."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from finery_shared.templates.render import Rendered


def perplexity(model: nn.Module, rows: Sequence[Rendered]) -> float:
    """Exp of the mean negative log-likelihood of the answers' tokens, those of the loss mask; one row at a time.

    Questions and system prompts don't count: no chat model was trained to say them.
    """
    device = next(model.parameters()).device
    total, count = 0.0, 0
    for row in rows:
        ids = torch.tensor([row.token_ids], device=device)
        learned = torch.tensor(row.loss_mask[1:], dtype=torch.bool, device=device)
        with torch.inference_mode():
            logits: Tensor = model(ids, use_cache=False).logits[0, :-1][learned].float()
        total += float(nn.functional.cross_entropy(logits, ids[0, 1:][learned], reduction="sum"))
        count += len(logits)
    return math.exp(min(total / count, 700.0)) if math.isfinite(total) else math.inf


def next_token_logits(model: nn.Module, rows: Sequence[Rendered]) -> list[Tensor]:
    """The logits of each row, fp32 [tokens, vocabulary] on the CPU."""
    device = next(model.parameters()).device
    inputs = [torch.tensor([row.token_ids], device=device) for row in rows]
    with torch.inference_mode():
        return [model(ids, use_cache=False).logits[0].float().cpu() for ids in inputs]


def divergence(right: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Mean Kullback-Leibler divergence in nats a token, of `other`'s next-token distributions from `right`'s."""
    terms = [
        nn.functional.kl_div(b.log_softmax(-1), a.log_softmax(-1), reduction="none", log_target=True).sum(-1)
        for a, b in zip(right, other, strict=True)
    ]
    return float(torch.cat(terms).mean())
