"""vLLM's log-probabilities as Finery tells them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vllm.logprobs import Logprob

from finery_inference.engines.protocol import Candidate, Position

LEAST = -9999.0
"""Stands for a token that could not be: JSON has no infinity."""


def positions(token_ids: Sequence[int], places: Sequence[Mapping[int, Logprob]], most: int) -> list[Position]:
    """A delta's log-probabilities, with the ``most`` likeliest tokens. vLLM counts the chosen one beside them."""
    return [_position(token, place, most) for token, place in zip(token_ids, places, strict=True)]


def _position(token_id: int, place: Mapping[int, Logprob], most: int) -> Position:
    ranked = sorted(place.items(), key=lambda item: item[1].rank)[:most]
    candidates = [Candidate(token, max(each.logprob, LEAST)) for token, each in ranked]
    return Position(Candidate(token_id, max(place[token_id].logprob, LEAST)), candidates)
