"""An engine without a model, for tests and load tests: deterministic answers at a chosen speed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from pydantic import JsonValue

from finery_inference.engines.errors import engine_dead
from finery_inference.engines.fake_tokenizer import END_OF_TURN, FakeTokenizer
from finery_inference.engines.protocol import Delta, EngineConfig, EngineRequest, EngineStats, Finish
from finery_shared.errors import FineryError, Reason, invalid

_ANSWER = "The quick brown fox jumps over the lazy dog. "


@dataclass(frozen=True)
class FakePace:
    """How fast a fake engine is."""

    start_seconds: float = 0.0
    first_token_seconds: float = 0.0
    tokens_per_second: float = 0.0
    """For each answer, by the clock: what nobody takes in time comes in one delta, as from vLLM. 0 is as fast as can
    be."""
    tokens_per_delta: int = 1
    answer_tokens: int = 32
    """Length of an answer that nothing else ends."""


class FakeEngine:
    """Answers every prompt with the letters of a sentence, begun at a place that depends on prompt and seed."""

    def __init__(self, config: EngineConfig, pace: FakePace) -> None:
        self._pace = pace
        self._max_model_len = config.max_model_len or 2048
        self._tokenizer = FakeTokenizer()
        self._dead = asyncio.Event()
        self._running: set[str] = set()
        self._generated = 0
        self._hung = False

    @property
    def max_model_len(self) -> int:
        """As configured, else 2048."""
        return self._max_model_len

    @property
    def vocab_size(self) -> int:
        """Bytes and three special tokens."""
        return self._tokenizer.size

    @property
    def tokenizer(self) -> FakeTokenizer:
        """One token a byte, ChatML as template."""
        return self._tokenizer

    @property
    def alive(self) -> bool:
        """False after `die` or `shutdown`."""
        return not self._dead.is_set()

    def die(self) -> None:
        """End as if the engine's process was killed."""
        self._dead.set()

    def hang(self) -> None:
        """Make no token any more, and say nothing."""
        self._hung = True

    async def generate(self, request: EngineRequest) -> AsyncGenerator[Delta, None]:
        """Deltas of every answer in turn."""
        self._check()
        self._running.add(request.request_id)
        try:
            await self._pause(self._pace.first_token_seconds)
            answers = [_Answer(request, index, self._pace) for index in range(request.sampling.n)]
            start = time.perf_counter()
            sent, longest = 0, max(len(answer.tokens) for answer in answers)
            while sent < longest:
                due = await self._due(sent, start)
                for delta in filter(None, [answer.delta(sent, due) for answer in answers]):
                    self._generated += len(delta.token_ids)
                    yield delta
                sent = due
        finally:
            self._running.discard(request.request_id)

    async def stats(self) -> EngineStats:
        """Requests between the first step of `generate` and its end."""
        self._check()
        return EngineStats(len(self._running), 0, 0.0, self._generated)

    async def shutdown(self) -> None:
        """The same as `die`."""
        self._dead.set()

    def _check(self) -> None:
        if self._dead.is_set():
            raise engine_dead()

    async def _due(self, sent: int, start: float) -> int:
        """Tokens of an answer that are made by now, more than ``sent``; waits for them."""
        least, rate = sent + self._pace.tokens_per_delta, self._pace.tokens_per_second
        if not rate:
            await self._pause(0)
            return least
        await self._pause(start + least / rate - time.perf_counter())
        return max(least, int((time.perf_counter() - start) * rate))

    async def _pause(self, seconds: float) -> None:
        if seconds > 0 or self._hung:
            with suppress(TimeoutError):
                async with asyncio.timeout(None if self._hung else seconds):
                    await self._dead.wait()
        else:
            await asyncio.sleep(0)
        self._check()


@dataclass
class FakeEngineFactory:
    """Makes fake engines, and remembers them for tests."""

    pace: FakePace = field(default_factory=FakePace)
    engines: list[FakeEngine] = field(default_factory=list)
    failures: list[FineryError] = field(default_factory=list)
    """Errors that the next starts raise, in turn."""

    async def prepare(self) -> None:
        """Nothing is needed."""

    def check(self, arguments: Mapping[str, JsonValue]) -> None:
        """Refuse every engine argument: there are none."""
        for name in arguments:
            raise invalid("engine_args", f"the fake engine has no argument {name!r}; leave it out.")

    async def start(self, config: EngineConfig) -> FakeEngine:
        """An engine, after ``pace.start_seconds``."""
        await asyncio.sleep(self.pace.start_seconds)
        if self.failures:
            raise self.failures.pop(0)
        if not config.model.is_dir():
            raise FineryError(Reason.ENGINE_FAILED, f"There is no model directory {config.model}: check the path.")
        self.engines.append(FakeEngine(config, self.pace))
        return self.engines[-1]

    async def close(self) -> None:
        """Nothing is left behind."""


class _Answer:
    """One answer, whole; a token is a letter, save the last ones when a stop text or a special token ended it."""

    def __init__(self, request: EngineRequest, index: int, pace: FakePace) -> None:
        self._index = index
        self.tokens, self._text, self._finish = _answer(request, index, pace)

    def delta(self, start: int, end: int) -> Delta | None:
        """The tokens from ``start`` to ``end``; None when the answer has ended before."""
        if start >= len(self.tokens):
            return None
        finish = self._finish if end >= len(self.tokens) else None
        return Delta(self._index, self._text[start:end], self.tokens[start:end], finish)


def _answer(request: EngineRequest, index: int, pace: FakePace) -> tuple[list[int], str, Finish]:
    """Tokens and text of one answer, and why it ended."""
    sampling = request.sampling
    tokens: list[int] = []
    text = ""
    natural = None if sampling.ignore_eos else pace.answer_tokens
    for token in _letters(request, index):
        if len(tokens) == natural:
            return [*tokens, END_OF_TURN], text, "stop"
        tokens.append(token)
        text += chr(token)
        found = next((stop for stop in sampling.stop if text.endswith(stop)), None)
        if found is not None:
            return tokens, text.removesuffix(found), "stop"
        if token in sampling.stop_token_ids:
            return tokens, text, "stop"
        if len(tokens) == sampling.max_tokens:
            return tokens, text, "length"
    raise AssertionError("the letters never end")


def _letters(request: EngineRequest, index: int) -> Iterator[int]:
    sampling = request.sampling
    choice = 0 if sampling.temperature == 0 else index + (sampling.seed or 0)
    at = sum(request.token_ids) + choice
    while True:
        yield ord(_ANSWER[at % len(_ANSWER)])
        at += 1
