"""What every engine must do. The fake and vLLM run the same tests."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field

import pytest

from finery_inference.engines.protocol import Delta, EngineAdapter, EngineRequest, InferenceEngine, Sampling
from finery_shared.errors import FineryError, Reason


@dataclass
class EngineUnderTest:
    """An engine, and how to end it from outside."""

    engine: InferenceEngine
    kill: Callable[[], Awaitable[None]]
    prompt: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        text = "Tell me about the sea."
        self.prompt = self.engine.tokenizer.encode(text, add_special_tokens=False)

    def request(self, name: str, adapter: EngineAdapter | None = None, **sampling: object) -> EngineRequest:
        values = {"max_tokens": 8, "temperature": 0.0, "ignore_eos": True, **sampling}
        return EngineRequest(name, self.prompt, Sampling(**values), adapter)  # type: ignore[arg-type]


async def collect(engine: InferenceEngine, request: EngineRequest) -> list[Delta]:
    async with aclosing(engine.generate(request)) as deltas:
        return [delta async for delta in deltas]


def text_of(deltas: list[Delta], index: int = 0) -> str:
    return "".join(delta.text for delta in deltas if delta.index == index)


def tokens_of(deltas: list[Delta], index: int = 0) -> list[int]:
    return [token for delta in deltas if delta.index == index for token in delta.token_ids]


async def settle(engine: InferenceEngine, running: int, seconds: float = 5.0) -> None:
    """Wait until the engine itself counts so many requests."""
    deadline = time.monotonic() + seconds
    while (stats := await engine.stats()).running + stats.waiting != running:
        assert time.monotonic() < deadline, stats
        await asyncio.sleep(0.01)


class AdapterContract:
    """What an engine that takes adapters must do, given two of them."""

    async def test_adapters_answer_beside_their_base(
        self, subject: EngineUnderTest, adapters: tuple[EngineAdapter, EngineAdapter]
    ) -> None:
        engine = subject.engine
        before = tokens_of(await collect(engine, subject.request("before")))
        for adapter in adapters:
            await engine.load_adapter(adapter)
        wanted = (None, *adapters)
        requests = [subject.request(f"beside-{number}", adapter) for number, adapter in enumerate(wanted)]
        answers = [tokens_of(deltas) for deltas in await asyncio.gather(*(collect(engine, r) for r in requests))]
        assert answers[0] == before
        assert len({tuple(answer) for answer in answers}) == 3
        for adapter in adapters:
            await engine.unload_adapter(adapter)
        assert tokens_of(await collect(engine, subject.request("after"))) == before

    async def test_unloading_ends_the_requests_of_an_adapter_alone(
        self, subject: EngineUnderTest, adapters: tuple[EngineAdapter, EngineAdapter]
    ) -> None:
        engine, adapter = subject.engine, adapters[0]
        await engine.load_adapter(adapter)
        base = asyncio.create_task(collect(engine, subject.request("base", max_tokens=60)))
        generation = engine.generate(subject.request("ended", adapter, max_tokens=1500))
        await anext(generation)
        await engine.unload_adapter(adapter)
        for ended in (generation, engine.generate(subject.request("late", adapter))):
            with pytest.raises(FineryError) as refusal:
                async with asyncio.timeout(5):
                    async for _ in ended:
                        pass
            assert refusal.value.reason is Reason.DEPLOYMENT_NOT_READY
        assert len(tokens_of(await base)) == 60
        await engine.unload_adapter(adapter)
        await settle(engine, 0)

    async def test_an_adapter_that_is_not_there_is_refused(
        self, subject: EngineUnderTest, adapters: tuple[EngineAdapter, EngineAdapter]
    ) -> None:
        absent = EngineAdapter(99, "absent", adapters[0].path / "nowhere")
        with pytest.raises(FineryError, match="nowhere") as refusal:
            await subject.engine.load_adapter(absent)
        assert refusal.value.reason is Reason.ENGINE_FAILED
        assert len(tokens_of(await collect(subject.engine, subject.request("still")))) == 8


class EngineContract:
    """Tests in the order in which they are run: the last ones end the engine of the fixture ``doomed``."""

    async def test_max_tokens_ends_an_answer(self, subject: EngineUnderTest) -> None:
        deltas = await collect(subject.engine, subject.request("length"))
        assert len(tokens_of(deltas)) == 8
        assert [delta.finish for delta in deltas if delta.finish] == ["length"]
        assert deltas[-1].finish == "length"

    async def test_text_is_what_the_tokens_say(self, subject: EngineUnderTest) -> None:
        deltas = await collect(subject.engine, subject.request("text", max_tokens=16))
        assert len(deltas) > 1
        said = subject.engine.tokenizer.decode(tokens_of(deltas), skip_special_tokens=True)
        assert text_of(deltas) == said

    async def test_greedy_answers_repeat(self, subject: EngineUnderTest) -> None:
        first = await collect(subject.engine, subject.request("greedy-1"))
        second = await collect(subject.engine, subject.request("greedy-2"))
        assert tokens_of(first) == tokens_of(second)

    async def test_a_seed_makes_chance_repeat(self, subject: EngineUnderTest) -> None:
        def request(name: str, seed: int) -> EngineRequest:
            return subject.request(name, temperature=1.5, seed=seed, max_tokens=12)

        first, again, other = [
            tokens_of(await collect(subject.engine, request(f"seed-{n}", seed))) for n, seed in enumerate((7, 7, 8))
        ]
        assert first == again
        assert first != other

    async def test_several_answers_by_index(self, subject: EngineUnderTest) -> None:
        deltas = await collect(subject.engine, subject.request("several", n=3, temperature=1.0, seed=1))
        assert {delta.index for delta in deltas} == {0, 1, 2}
        assert [len(tokens_of(deltas, index)) for index in range(3)] == [8, 8, 8]
        assert [delta.index for delta in deltas if delta.finish].count(2) == 1
        assert len({tuple(tokens_of(deltas, index)) for index in range(3)}) > 1

    async def test_a_stop_text_ends_an_answer_and_is_not_part_of_it(self, subject: EngineUnderTest) -> None:
        whole = text_of(await collect(subject.engine, subject.request("whole", max_tokens=24)))
        stop = whole[9:12]
        deltas = await collect(subject.engine, subject.request("stop", max_tokens=24, stop=(stop,)))
        assert deltas[-1].finish == "stop"
        assert text_of(deltas) == whole[: whole.index(stop)]

    async def test_a_stop_token_ends_an_answer(self, subject: EngineUnderTest) -> None:
        whole = tokens_of(await collect(subject.engine, subject.request("tokens")))
        end = whole[4]
        deltas = await collect(subject.engine, subject.request("stop token", stop_token_ids=(end,)))
        assert deltas[-1].finish == "stop"
        assert len(tokens_of(deltas)) == whole.index(end) + 1

    async def test_least_tokens_come_before_an_end(self, subject: EngineUnderTest) -> None:
        whole = tokens_of(await collect(subject.engine, subject.request("no end", max_tokens=30)))
        request = subject.request("least", max_tokens=30, stop_token_ids=(whole[2],), min_tokens=20)
        assert len(tokens_of(await collect(subject.engine, request))) > 20

    async def test_a_bias_forces_a_token_or_rules_it_out(self, subject: EngineUnderTest) -> None:
        greedy = tokens_of(await collect(subject.engine, subject.request("unbiased")))
        wanted = next(token for token in subject.prompt if token != greedy[0])
        forced = await collect(subject.engine, subject.request("forced", logit_bias={wanted: 100.0}))
        assert set(tokens_of(forced)) == {wanted}
        banned = await collect(subject.engine, subject.request("banned", logit_bias={greedy[0]: -100.0}))
        assert greedy[0] not in tokens_of(banned)

    async def test_each_token_has_its_logprob(self, subject: EngineUnderTest) -> None:
        deltas = await collect(subject.engine, subject.request("logprobs", logprobs=5))
        positions = [position for delta in deltas for position in delta.logprobs]
        assert [position.chosen.token_id for position in positions] == tokens_of(deltas)
        for position in positions:
            assert position.chosen == position.top[0], "the likeliest is chosen"
            values = [candidate.logprob for candidate in position.top]
            assert (len(values), values) == (5, sorted(values, reverse=True))
            assert sum(map(math.exp, values)) <= 1.001
        none = await collect(subject.engine, subject.request("no logprobs"))
        assert not any(delta.logprobs for delta in none)

    async def test_streams_run_side_by_side(self, subject: EngineUnderTest) -> None:
        requests = [subject.request(f"side-{n}", max_tokens=12) for n in range(6)]
        results = await asyncio.gather(*(collect(subject.engine, request) for request in requests))
        assert {len(tokens_of(deltas)) for deltas in results} == {12}
        await settle(subject.engine, 0)

    async def test_closing_the_stream_aborts_the_request(self, subject: EngineUnderTest) -> None:
        async with aclosing(subject.engine.generate(subject.request("left", max_tokens=1500))) as deltas:
            await anext(deltas)
            await settle(subject.engine, 1)
        await settle(subject.engine, 0, seconds=2.0)

    async def test_leaving_before_the_first_token_aborts_the_request(self, subject: EngineUnderTest) -> None:
        request = subject.request("early", max_tokens=1500)
        waiting = asyncio.create_task(collect(subject.engine, request))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        waiting.cancel()
        assert (await asyncio.gather(waiting, return_exceptions=True))[0].__class__ is asyncio.CancelledError
        await settle(subject.engine, 0, seconds=2.0)
        assert len(tokens_of(await collect(subject.engine, subject.request("after")))) == 8

    async def test_generated_tokens_are_counted(self, subject: EngineUnderTest) -> None:
        before = (await subject.engine.stats()).generated_tokens
        await collect(subject.engine, subject.request("counted"))
        await settle(subject.engine, 0)
        assert (await subject.engine.stats()).generated_tokens == before + 8

    async def test_limits_are_told(self, subject: EngineUnderTest) -> None:
        assert subject.engine.max_model_len == 2048
        assert subject.engine.vocab_size > max(subject.prompt)
        assert subject.engine.alive

    async def test_vitals_tell_of_work_and_of_steps(self, subject: EngineUnderTest) -> None:
        await settle(subject.engine, 0)
        before = subject.engine.vitals
        assert before.waiting == 0
        async with aclosing(subject.engine.generate(subject.request("vital", max_tokens=1500))) as deltas:
            await anext(deltas)
            working = subject.engine.vitals
            assert working.waiting == 1
            assert working.steps > before.steps
        await settle(subject.engine, 0)
        answered = subject.engine.vitals
        await asyncio.wait_for(subject.engine.check(), 10)
        assert subject.engine.vitals.steps > answered.steps
        assert subject.engine.vitals.waiting == 0

    async def test_a_killed_engine_ends_its_requests_at_once(self, doomed: EngineUnderTest) -> None:
        generation = doomed.engine.generate(doomed.request("doomed", max_tokens=1500))
        await anext(generation)
        await doomed.kill()
        start = time.monotonic()
        with pytest.raises(FineryError) as refusal:
            async for _ in generation:
                pass
        assert refusal.value.reason is Reason.ENGINE_DEAD
        assert time.monotonic() - start < 5
        assert not doomed.engine.alive
        for use in (collect(doomed.engine, doomed.request("late")), doomed.engine.stats()):
            with pytest.raises(FineryError) as refusal:
                await use
            assert refusal.value.reason is Reason.ENGINE_DEAD
        await doomed.engine.shutdown()

    async def test_shutdown_ends_running_requests(self, ending: EngineUnderTest) -> None:
        generation = ending.engine.generate(ending.request("ending", max_tokens=1500))
        await anext(generation)
        await asyncio.gather(ending.engine.shutdown(), ending.engine.shutdown())
        assert not ending.engine.alive
        with pytest.raises(FineryError) as refusal:
            async with asyncio.timeout(5):
                async for _ in generation:
                    pass
        assert refusal.value.reason is Reason.ENGINE_DEAD
