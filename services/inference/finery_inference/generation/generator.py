"""One request from prompt to the end of its answers."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from finery_inference.engines.protocol import Delta, EngineRequest, Finish, InferenceEngine
from finery_inference.generation import sampling, structured
from finery_inference.generation.answers import deltas_of, logprobs_of
from finery_inference.generation.loaded import LoadedModel
from finery_inference.generation.prompt import check_length, token_ids
from finery_inference.generation.request import (
    AnswerFinish,
    Chunk,
    Complete,
    GenerationRequest,
    PromptInput,
    ToolCallDelta,
)
from finery_inference.generation.tools.reader import ToolUse, tool_use
from finery_shared.errors import FineryError, Reason


class Generator:
    """Generates with the models that ``find`` knows by id, each engine at most for ``most`` requests at a time."""

    def __init__(self, find: Callable[[str], LoadedModel], most: int = 2048) -> None:
        self._find = find
        self._most = most
        self._running: Counter[InferenceEngine] = Counter()

    @property
    def running(self) -> int:
        """Requests that have begun and not ended."""
        return self._running.total()

    async def tokenize(self, model_id: str, prompt: PromptInput) -> tuple[Sequence[int], int]:
        """The prompt's token ids, and the longest prompt and answer together in tokens."""
        model = self._find(model_id)
        return await token_ids(model, prompt), model.max_model_len

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Chunk | Complete, None]:
        """Chunks, then one Complete. Closing the generator aborts the engine's request.

        Raises what ``find`` raises, INVALID_ARGUMENT, CONTEXT_LENGTH_EXCEEDED, UNSUPPORTED, QUEUE_FULL and ENGINE_DEAD.
        """
        model = self._find(request.model)
        sampling.check(request.sampling)
        use = tool_use(model, request.prompt)
        self._admit(request.model, model.engine)
        try:
            await structured.check(request.sampling.structured)
            prompt = await token_ids(model, request.prompt)
            max_tokens = check_length(model, len(prompt), request.sampling.max_tokens)
            chosen = sampling.fill_in(request.sampling, model, max_tokens)
            if use is not None and use.constraint is not None:
                await structured.check(use.constraint)
                chosen = use.constrained(chosen)
            answers = _Answers(chosen.n, use)
            engine_request = EngineRequest(uuid.uuid4().hex, prompt, chosen, model.adapter)
            async with aclosing(deltas_of(model.engine, engine_request)) as deltas:
                async for delta in deltas:
                    answers.cached_tokens = max(answers.cached_tokens, delta.cached_tokens)
                    answers.tokens[delta.index] += len(delta.token_ids)
                    if delta.finish is not None:
                        answers.finishes[delta.index] = delta.finish
                    text, calls = answers.read(delta)
                    if delta.token_ids or text or calls:
                        logprobs = logprobs_of(delta.logprobs, model.token_bytes) if delta.logprobs else ()
                        yield Chunk(delta.index, text, delta.token_ids, answers.tokens[delta.index], logprobs, calls)
            yield answers.complete(len(prompt))
        finally:
            self._running[model.engine] -= 1
            if not self._running[model.engine]:
                del self._running[model.engine]

    def _admit(self, model: str, engine: InferenceEngine) -> None:
        if self._running[engine] >= self._most:
            message = (
                f"The engine of {model} has {self._most} requests under way, as many as it takes "
                "(FINERY_INFERENCE_MAX_REQUESTS). "
                "Try again in a moment."
            )
            raise FineryError(Reason.QUEUE_FULL, message, model=model)
        self._running[engine] += 1


class _Answers:
    """Counts of a request under way."""

    def __init__(self, n: int, use: ToolUse | None) -> None:
        self._readers = [use.reader() for _ in range(n)] if use is not None else []
        self.tokens = [0] * n
        self.finishes: list[Finish | None] = [None] * n
        self.cached_tokens = 0

    def read(self, delta: Delta) -> tuple[str, tuple[ToolCallDelta, ...]]:
        """A delta's text and the tool calls in it."""
        if not self._readers:
            return delta.text, ()
        return self._readers[delta.index].read(delta.text, last=delta.finish is not None)

    def complete(self, prompt_tokens: int) -> Complete:
        """The end; raises ENGINE_FAILED when an answer has none."""
        called = [reader.called for reader in self._readers] or [False] * len(self.finishes)
        finishes = tuple(_finish(f, c) for f, c in zip(self.finishes, called, strict=True) if f is not None)
        if len(finishes) < len(self.finishes):
            raise FineryError(Reason.ENGINE_FAILED, "The engine broke the answer off. Try again.")
        return Complete(finishes, prompt_tokens, sum(self.tokens), self.cached_tokens)


def _finish(finish: Finish, called: bool) -> AnswerFinish:
    return "tool_calls" if called and finish == "stop" else finish
