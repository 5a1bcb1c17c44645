"""Perplexity on rows that no job trains on or calibrates with."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


@torch.inference_mode()
def perplexity(model: nn.Module, rows: Sequence[Sequence[int]]) -> float:
    """exp of the mean negative log-likelihood of every token but each row's first; one row at a time."""
    device = next(model.parameters()).device
    total, count = 0.0, 0
    for row in rows:
        ids = torch.tensor([row], device=device)
        logits: Tensor = model(ids, use_cache=False).logits[0, :-1].float()
        total += float(nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
        count += len(row) - 1
    return math.exp(min(total / count, 700.0)) if math.isfinite(total) else math.inf


@torch.inference_mode()
def next_token_logits(model: nn.Module, rows: Sequence[Sequence[int]]) -> list[Tensor]:
    """The logits of each row, fp32 [tokens, vocabulary] on the CPU."""
    device = next(model.parameters()).device
    return [model(torch.tensor([row], device=device), use_cache=False).logits[0].float().cpu() for row in rows]


def divergence(right: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Mean Kullback-Leibler divergence in nats a token, of `other`'s next-token distributions from `right`'s."""
    terms = [
        nn.functional.kl_div(b.log_softmax(-1), a.log_softmax(-1), reduction="none", log_target=True).sum(-1)
        for a, b in zip(right, other, strict=True)
    ]
    return float(torch.cat(terms).mean())
