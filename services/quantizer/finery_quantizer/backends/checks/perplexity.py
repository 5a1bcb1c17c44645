"""Perplexity on rows that no job trains on or calibrates with."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from finery_shared.templates.render import Rendered

_BATCH = 12


def perplexity(model: nn.Module, rows: Sequence[Rendered]) -> float:
    """The exponential of the mean negative log-likelihood of the answers' tokens, those of the loss mask.

    Questions and system prompts don't count: no chat model was trained to say them.
    """
    total, count = 0.0, 0
    by_length = sorted(rows, key=lambda row: len(row.token_ids))
    for start in range(0, len(by_length), _BATCH):
        negative_log_likelihoods = _answers(model, by_length[start : start + _BATCH])
        total += float(negative_log_likelihoods.sum())
        count += len(negative_log_likelihoods)
    return math.exp(min(total / count, 700.0)) if math.isfinite(total) else math.inf


def _answers(model: nn.Module, rows: Sequence[Rendered]) -> Tensor:
    """Negative log-likelihoods of all answers' tokens of `rows`, run as one batch.

    Padding stands on the right, where a causal model's other tokens don't see it, so no attention mask is needed.
    """
    device, width = next(model.parameters()).device, max(len(row.token_ids) for row in rows)
    ids = torch.tensor([[*row.token_ids, *[0] * (width - len(row.token_ids))] for row in rows], device=device)
    learned = torch.tensor(
        [[*row.loss_mask, *[0] * (width - len(row.loss_mask))] for row in rows], device=device
    ).bool()
    with torch.inference_mode():
        logits: Tensor = model(ids, use_cache=False).logits[:, :-1][learned[:, 1:]].float()
        return nn.functional.cross_entropy(logits, ids[:, 1:][learned[:, 1:]], reduction="none")


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
