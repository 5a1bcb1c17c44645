"""From an engine's deltas to what a caller is told of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from finery_inference.engines.protocol import Candidate, Delta, EngineRequest, InferenceEngine, Position
from finery_inference.engines.token_bytes import TokenBytes
from finery_inference.generation.request import PositionLogprobs, TokenLogprob


def deltas_of(engine: InferenceEngine, request: EngineRequest) -> AsyncGenerator[Delta, None]:
    """An engine's deltas. Several answers without chance are made once, since they are the same."""
    several = request.sampling.n > 1 and request.sampling.temperature == 0
    return _copied(engine, request) if several else engine.generate(request)


async def _copied(engine: InferenceEngine, request: EngineRequest) -> AsyncGenerator[Delta, None]:
    once = replace(request, sampling=replace(request.sampling, n=1))
    async with aclosing(engine.generate(once)) as deltas:
        async for delta in deltas:
            for index in range(request.sampling.n):
                yield replace(delta, index=index)


def logprobs_of(positions: Sequence[Position], tokens: TokenBytes) -> Sequence[PositionLogprobs]:
    """Log-probabilities with the tokens' bytes."""

    def told(candidate: Candidate) -> TokenLogprob:
        return TokenLogprob(candidate.token_id, tokens.of(candidate.token_id), candidate.logprob)

    return [PositionLogprobs(told(each.chosen), [told(candidate) for candidate in each.top]) for each in positions]
