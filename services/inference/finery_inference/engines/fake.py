"""An engine without a model, for tests and load tests: deterministic answers at a chosen speed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from pydantic import JsonValue

from finery_inference.engines.errors import adapter_unloaded, engine_dead
from finery_inference.engines.fake_answer import FakeAnswer
from finery_inference.engines.fake_tokenizer import FakeTokenizer
from finery_inference.engines.protocol import (
    Delta,
    EngineAdapter,
    EngineConfig,
    EngineRequest,
    EngineStats,
    Vitals,
)
from finery_shared.errors import FineryError, Reason, invalid


@dataclass(frozen=True)
class FakePace:
    """How fast a fake engine is, and how much it says."""

    start_seconds: float = 0.0
    first_token_seconds: float = 0.0
    tokens_per_second: float = 0.0
    """For each answer, by the clock: what nobody takes in time comes in one delta, as from vLLM. 0 is as fast as can
    be."""
    tokens_per_delta: int = 1
    answer_tokens: int = 32
    """Length of an answer that nothing else ends."""
    echo: bool = False
    """Answer with the last user's message instead, all of it."""


class FakeEngine:
    """Answers with the letters of a sentence, begun at a place that depends on prompt, seed and adapter."""

    def __init__(self, config: EngineConfig, pace: FakePace) -> None:
        self._pace = pace
        self._max_model_len = config.max_model_len or 2048
        self._tokenizer = FakeTokenizer()
        self._dead = asyncio.Event()
        self._adapters: dict[int, asyncio.Event] = {}
        """By number, those that are loaded; the event is set when the adapter goes."""
        self._running: set[str] = set()
        self._generated = 0
        self._hung = False
        self._steps = 0
        self._checks = 0

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
        for gone in self._adapters.values():
            gone.set()

    def hang(self) -> None:
        """Make no token any more, and say nothing."""
        self._hung = True

    async def generate(self, request: EngineRequest) -> AsyncGenerator[Delta, None]:
        """Deltas of every answer in turn."""
        gone = self._gone(request)
        self._running.add(request.request_id)
        try:
            await self._pause(self._pace.first_token_seconds, gone)
            said = None if self._pace.echo else self._pace.answer_tokens
            answers = [FakeAnswer(request, index, said) for index in range(request.sampling.n)]
            start = time.perf_counter()
            sent, longest = 0, max(len(answer.tokens) for answer in answers)
            while sent < longest:
                due = await self._due(sent, start, gone)
                for delta in filter(None, [answer.delta(sent, due) for answer in answers]):
                    self._generated += len(delta.token_ids)
                    yield delta
                sent = due
        finally:
            self._running.discard(request.request_id)

    async def load_adapter(self, adapter: EngineAdapter) -> None:
        """One more, if it is there; its files are not opened."""
        self._check()
        if not adapter.path.is_dir():
            raise FineryError(Reason.ENGINE_FAILED, f"There is no adapter directory {adapter.path}: check the path.")
        self._adapters[adapter.number] = asyncio.Event()

    async def unload_adapter(self, adapter: EngineAdapter) -> None:
        """One less."""
        gone = self._adapters.pop(adapter.number, None)
        if gone is not None:
            gone.set()

    async def stats(self) -> EngineStats:
        """Requests between the first step of `generate` and its end."""
        self._check()
        return EngineStats(len(self._running), 0, 0.0, self._generated)

    @property
    def vitals(self) -> Vitals:
        """A step whenever it is looked at, unless it hangs."""
        self._steps += not self._hung
        return Vitals(len(self._running) + self._checks, self._steps)

    async def check(self) -> None:
        """Answers at once, unless it hangs."""
        self._checks += 1
        try:
            await self._pause(0, self._dead)
        finally:
            self._checks -= 1

    def kill(self) -> None:
        """The same as `die`."""
        self.die()

    async def shutdown(self) -> None:
        """The same as `die`."""
        self.die()

    def _gone(self, request: EngineRequest) -> asyncio.Event:
        """What ends a request."""
        self._check()
        if request.adapter is None:
            return self._dead
        if request.adapter.number not in self._adapters:
            raise adapter_unloaded()
        return self._adapters[request.adapter.number]

    def _check(self) -> None:
        if self._dead.is_set():
            raise engine_dead()

    async def _due(self, sent: int, start: float, gone: asyncio.Event) -> int:
        """Tokens of an answer that are made by now, more than ``sent``; waits for them."""
        least, rate = sent + self._pace.tokens_per_delta, self._pace.tokens_per_second
        if not rate:
            await self._pause(0, gone)
            return least
        await self._pause(start + least / rate - time.perf_counter(), gone)
        return max(least, int((time.perf_counter() - start) * rate))

    async def _pause(self, seconds: float, gone: asyncio.Event) -> None:
        if seconds > 0 or self._hung:
            with suppress(TimeoutError):
                async with asyncio.timeout(None if self._hung else seconds):
                    await gone.wait()
        else:
            await asyncio.sleep(0)
        self._check()
        if gone.is_set():
            raise adapter_unloaded()


@dataclass
class FakeEngineFactory:
    """Makes fake engines, and remembers them for tests."""

    pace: FakePace = field(default_factory=FakePace)
    engines: list[FakeEngine] = field(default_factory=list)
    failures: list[FineryError] = field(default_factory=list)
    """Errors that the next starts raise, in turn."""

    takes_adapters = True

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
