"""How the next token is chosen from the logits: the same steps, in the same order, as vLLM takes."""

from __future__ import annotations

import torch

from finery_inference.engines.protocol import Candidate, Position, Sampling
from finery_inference.engines.transformers.answer import Answer

GREEDY = 1e-5
"""Temperatures below this are 0."""

LEAST = -9999.0
"""Stands for the log-probability of a token that could not be: JSON has no infinity."""


class Chooser:
    """Chooses the tokens of one answer."""

    def __init__(self, answer: Answer, device: torch.device) -> None:
        self._answer = answer
        self._sampling = answer.request.sampling
        self._tokens = answer.tokens
        self._prompt = torch.tensor(list(answer.request.token_ids), device=device)
        self._generator: torch.Generator | None = None
        if self._sampling.seed is not None:
            # Answers to one request differ, and each is the same again.
            seed = (self._sampling.seed + answer.index) % 2**63
            self._generator = torch.Generator(device).manual_seed(seed)

    @property
    def plain(self) -> bool:
        """Whether the likeliest token is taken as it is."""
        sampling = self._sampling
        shifts = self._penalizes or sampling.logit_bias or not self._answer.may_end
        return self._greedy and not shifts and sampling.logprobs is None

    def position(self, token: int, logits: torch.Tensor) -> Position | None:
        """How likely the model, left to itself, found this token and the likeliest ones; None if nobody asked."""
        if self._sampling.logprobs is None:
            return None
        logprobs = logits.log_softmax(-1)
        values, tokens = logprobs.topk(min(self._sampling.logprobs, logits.shape[-1]))
        top = [Candidate(*pair) for pair in zip(tokens.tolist(), values.clamp(LEAST, 0).tolist(), strict=True)]
        return Position(Candidate(token, float(logprobs[token].clamp(LEAST, 0))), top)

    def choose(self, logits: torch.Tensor) -> int:
        """A token from fp32 logits of shape [vocabulary]. Raises ArithmeticError when they give no probabilities."""
        logits = logits.clone()
        for biased, bias in self._sampling.logit_bias.items():
            logits[biased] += bias
        if not self._answer.may_end:
            logits[list(self._sampling.stop_token_ids)] = -torch.inf
        if self._penalizes:
            logits = _penalized(logits, self._sampling, self._prompt, self._tokens)
        if self._greedy:
            return int(logits.argmax())
        probabilities = _narrowed(logits / self._sampling.temperature, self._sampling).softmax(-1)
        # On a GPU a draw from such numbers would break the process for good.
        if not bool(probabilities.isfinite().all()):
            raise ArithmeticError("the model's logits, as this request shifts them, are too large or not numbers")
        return int(torch.multinomial(probabilities, 1, generator=self._generator))

    @property
    def _greedy(self) -> bool:
        return self._sampling.temperature < GREEDY

    @property
    def _penalizes(self) -> bool:
        sampling = self._sampling
        return sampling.repetition_penalty != 1 or sampling.frequency_penalty != 0 or sampling.presence_penalty != 0


def _penalized(logits: torch.Tensor, sampling: Sampling, prompt: torch.Tensor, tokens: list[int]) -> torch.Tensor:
    """Repetition counts prompt and answer (CTRL, Keskar et al. 2019); frequency and presence the answer alone."""
    made = torch.tensor(tokens, dtype=torch.long, device=logits.device)
    if sampling.repetition_penalty != 1:
        seen = torch.cat((prompt, made)).unique()
        values = logits[seen]
        logits[seen] = torch.where(
            values > 0, values / sampling.repetition_penalty, values * sampling.repetition_penalty
        )
    said, counts = made.unique(return_counts=True)
    logits[said] -= sampling.frequency_penalty * counts + sampling.presence_penalty
    return logits


def _narrowed(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Scaled logits, minus infinity where min_p, top_k or top_p rule a token out."""
    if sampling.min_p > 0:
        # log(p) >= log(min_p) + log(p of the best) needs no softmax.
        least = logits.max() + torch.log(torch.tensor(sampling.min_p, device=logits.device))
        logits = logits.masked_fill(logits < least, -torch.inf)
    if 0 < sampling.top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(sampling.top_k).values[-1], -torch.inf)
    if sampling.top_p < 1:
        ordered, order = logits.sort(descending=True)
        probabilities = ordered.softmax(-1)
        # A token stays if those before it don't reach top_p: the best one always does.
        out = probabilities.cumsum(-1) - probabilities >= sampling.top_p
        logits = logits.index_fill(-1, order[out], -torch.inf)
    return logits
