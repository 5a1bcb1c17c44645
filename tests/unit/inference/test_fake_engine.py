import asyncio
import time
from pathlib import Path

import pytest

from finery_inference.engines.fake import FakeEngine, FakeEngineFactory, FakePace
from finery_inference.engines.protocol import EngineAdapter, EngineConfig
from finery_shared.errors import FineryError, Reason
from tests.unit.inference.engine_contract import (
    AdapterContract,
    EngineContract,
    EngineUnderTest,
    collect,
    text_of,
    tokens_of,
)

PACE = FakePace(first_token_seconds=0.005, tokens_per_second=400.0)


def fake(pace: FakePace = PACE) -> EngineUnderTest:
    engine = FakeEngine(EngineConfig(Path("/nowhere"), max_model_len=2048), pace)

    async def kill() -> None:
        engine.die()

    return EngineUnderTest(engine, kill)


class TestFakeEngine(EngineContract):
    @pytest.fixture
    def subject(self) -> EngineUnderTest:
        return fake()

    @pytest.fixture
    def doomed(self) -> EngineUnderTest:
        return fake()

    @pytest.fixture
    def ending(self) -> EngineUnderTest:
        return fake()


class TestFakeAdapters(AdapterContract):
    @pytest.fixture
    def subject(self) -> EngineUnderTest:
        return fake()

    @pytest.fixture
    def adapters(self, tmp_path: Path) -> tuple[EngineAdapter, EngineAdapter]:
        return EngineAdapter(1, "one", tmp_path), EngineAdapter(2, "two", tmp_path)


async def test_an_answer_ends_with_the_end_of_turn() -> None:
    subject = fake(FakePace(answer_tokens=5))
    deltas = await collect(subject.engine, subject.request("natural", ignore_eos=False, max_tokens=100))
    assert len(text_of(deltas)) == 5
    assert tokens_of(deltas)[5:] == [258]
    assert deltas[-1].finish == "stop"


async def test_several_tokens_a_delta() -> None:
    subject = fake(FakePace(tokens_per_delta=3))
    deltas = await collect(subject.engine, subject.request("coalesced"))
    assert [len(delta.token_ids) for delta in deltas] == [3, 3, 2]


async def test_the_pace_is_kept() -> None:
    subject = fake(FakePace(first_token_seconds=0.1, tokens_per_second=100))
    start = time.monotonic()
    await collect(subject.engine, subject.request("paced", max_tokens=10))
    assert time.monotonic() - start >= 0.2


async def test_a_hung_engine_lives_and_says_nothing() -> None:
    engine = FakeEngine(EngineConfig(Path("/nowhere"), max_model_len=2048), FakePace())
    subject = EngineUnderTest(engine, engine.shutdown)
    generation = engine.generate(subject.request("hung"))
    await anext(generation)
    engine.hang()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await anext(generation)
    assert engine.alive
    assert (await engine.stats()).running == 0


async def test_engine_arguments_are_refused_by_name() -> None:
    with pytest.raises(FineryError, match="max_num_seqs") as refusal:
        FakeEngineFactory().check({"max_num_seqs": 4})
    assert refusal.value.reason is Reason.INVALID_ARGUMENT
