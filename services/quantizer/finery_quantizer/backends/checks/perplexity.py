"""Perplexity on rows that no job trains on or calibrates with."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from finery_quantizer.backends.base import Tell
from finery_quantizer.backends.checkpoint.capture import call, first_layer_inputs
from finery_quantizer.backends.checkpoint.streamed import StreamedModel
from finery_shared.templates.render import Rendered

_BATCH = 12


def perplexity(model: nn.Module, rows: Sequence[Rendered]) -> float:
    """The exponential of the mean negative log-likelihood of the answers' tokens, those of the loss mask.

    Questions and system prompts don't count: no chat model was trained to say them.
    """
    device = next(model.parameters()).device
    with torch.inference_mode():
        parts = (batch.losses(model(batch.ids.to(device), use_cache=False).logits) for batch in _batches(rows))
        return _exponential(list(parts))


Change = Callable[[str, nn.Module], None]
"""Changes a decoder layer in place, given its name in the model."""


def streamed_perplexities(
    model: StreamedModel, rows: Sequence[Rendered], changes: Sequence[Change], tell: Tell = lambda *_: None
) -> list[float]:
    """The same of a model one layer of which is in memory at a time: as it is, then after each of `changes`.

    They are applied one after the other to each layer as it comes by, so the model is read once for all figures.
    """
    batches = list(_batches(rows))
    with torch.inference_mode():
        states = _through_layers(model, [batch.ids for batch in batches], changes, tell)
        with model.past_layers() as logits:
            return [
                _exponential([b.losses(logits(b.ids, h)) for b, h in zip(batches, hidden, strict=True)])
                for hidden in states
            ]


def _through_layers(
    model: StreamedModel, ids: Sequence[Tensor], changes: Sequence[Change], tell: Tell
) -> list[list[Tensor]]:
    """The last layer's outputs [rows, length, hidden] for each of `ids` [rows, length]: unchanged, then by change."""
    inputs = [first_layer_inputs(model.model, model.layers[0], i, model.dtype, model.device) for i in ids]
    states = [[start.hidden for start in inputs] for _ in range(len(changes) + 1)]
    for index, name in enumerate(model.names):
        layer = model.layer(index)
        for number, hidden in enumerate(states):
            if number > 0:
                changes[number - 1](name, layer)
            hidden[:] = [call(layer, h, start.kwargs) for h, start in zip(hidden, inputs, strict=True)]
        model.release(index)
        tell(index + 1, len(model.layers))
    return states


@dataclass(frozen=True, slots=True)
class _Batch:
    """Rows side by side: token ids and whether each is learned, both [rows, length].

    Padding stands on the right, where a causal model's other tokens don't see it, so no attention mask is needed.
    """

    ids: Tensor
    learned: Tensor

    def losses(self, logits: Tensor) -> Tensor:
        """Negative log-likelihoods of all learned tokens."""
        learned = self.learned[:, 1:].to(logits.device)
        right = self.ids[:, 1:].to(logits.device)[learned]
        return nn.functional.cross_entropy(logits[:, :-1][learned].float(), right, reduction="none")


def _batches(rows: Sequence[Rendered]) -> Iterator[_Batch]:
    by_length = sorted(rows, key=lambda row: len(row.token_ids))
    for start in range(0, len(by_length), _BATCH):
        part = by_length[start : start + _BATCH]
        width = len(part[-1].token_ids)
        ids = torch.tensor([[*row.token_ids, *[0] * (width - len(row.token_ids))] for row in part])
        learned = torch.tensor([[*row.loss_mask, *[0] * (width - len(row.loss_mask))] for row in part])
        yield _Batch(ids, learned.bool())


def _exponential(losses: Sequence[Tensor]) -> float:
    mean = float(torch.cat(list(losses)).mean())
    return math.exp(min(mean, 700.0)) if math.isfinite(mean) else math.inf


def next_token_logits(model: StreamedModel, rows: Sequence[Rendered], tell: Tell = lambda *_: None) -> list[Tensor]:
    """The logits of each row, fp32 [tokens, vocabulary] on the CPU."""
    with torch.inference_mode():
        ids = [torch.tensor([row.token_ids]) for row in rows]
        (states,) = _through_layers(model, ids, [], tell)
        with model.past_layers() as logits:
            return [logits(i, hidden)[0].float().cpu() for i, hidden in zip(ids, states, strict=True)]


def divergence(right: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Mean Kullback-Leibler divergence in nats a token, of `other`'s next-token distributions from `right`'s."""
    terms = [
        nn.functional.kl_div(b.log_softmax(-1), a.log_softmax(-1), reduction="none", log_target=True).sum(-1)
        for a, b in zip(right, other, strict=True)
    ]
    return float(torch.cat(terms).mean())
