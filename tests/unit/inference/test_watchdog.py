"""When an engine counts as hung, and what becomes of it then."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from finery.inference.v1 import deployments_pb2 as d
from finery_inference.deployments.restart import RestartPolicy
from finery_inference.deployments.watchdog import Pulse, Watchdog
from finery_inference.engines.fake import FakeEngine, FakePace
from finery_inference.engines.protocol import EngineConfig, Vitals
from finery_shared.errors import Reason
from tests.unit.inference.harness import Harness, eventually, refusal, write_model


@dataclass
class Clock:
    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_only_an_engine_with_work_and_without_a_step_is_hung() -> None:
    clock = Clock()
    pulse = Pulse(60, clock)
    for clock.seconds, vitals, hung in (
        (0, Vitals(0, 7), False),
        (1000, Vitals(0, 7), False),
        (1001, Vitals(1, 7), False),
        (1059, Vitals(1, 7), False),
        (1061, Vitals(1, 7), True),
        (1062, Vitals(1, 8), False),
        (1121, Vitals(2, 8), False),
        (1123, Vitals(2, 8), True),
    ):
        assert pulse.stopped(vitals) is hung, clock.seconds


def test_an_engine_that_computes_has_ten_times_the_time() -> None:
    clock = Clock()
    pulse = Pulse(60, clock)
    assert not pulse.stopped(Vitals(1, 1, 10.0))
    clock.seconds = 590
    assert pulse.stopped(Vitals(1, 1, 10.0 + 58))
    assert not pulse.stopped(Vitals(1, 1, 10.0 + 60))
    clock.seconds = 610
    assert pulse.stopped(Vitals(1, 1, 10.0 + 610))


def test_zero_is_for_ever() -> None:
    clock = Clock()
    pulse = Pulse(0, clock)
    assert not pulse.stopped(Vitals(1, 1))
    clock.seconds = 1e9
    assert not pulse.stopped(Vitals(1, 1))


async def test_an_idle_engine_that_hangs_is_found_without_a_request() -> None:
    engine = FakeEngine(EngineConfig(Path("/nowhere")), FakePace())
    watching = asyncio.create_task(Watchdog(0.2).until_ended(engine))
    await asyncio.sleep(0.4)
    assert not watching.done()
    engine.hang()
    assert "0.2 seconds" in await asyncio.wait_for(watching, 5)
    assert not engine.alive


async def test_an_engine_that_died_is_told_from_one_that_hangs() -> None:
    engine = FakeEngine(EngineConfig(Path("/nowhere")), FakePace())
    watching = asyncio.create_task(Watchdog(60).until_ended(engine))
    engine.die()
    assert await asyncio.wait_for(watching, 5) == "the engine's process has ended"


async def test_a_hung_engine_is_ended_and_started_again(tmp_path: Path) -> None:
    harness = Harness(tmp_path, policy=RestartPolicy(first=0.3), hung_seconds=0.3)
    await harness.start()
    await harness.deploy(write_model(tmp_path / "toy-chat"))
    engine = harness.factory.engines[0]
    call = harness.generate(max_tokens=2000, ignore_eos=True)
    await anext(aiter(call))
    engine.hang()
    error = await asyncio.wait_for(refusal(call), 5)
    assert error.reason is Reason.ENGINE_DEAD
    failed = await harness.until("m", d.DEPLOYMENT_STATE_FAILED)
    assert failed.error.reason == "ENGINE_DEAD"
    await eventually(lambda: len(harness.factory.engines) == 2)
    await harness.until("m", d.DEPLOYMENT_STATE_READY)
    assert (await harness.answer(max_tokens=4))[1].usage.completion_tokens == 4
    assert await harness.health()
    await harness.stop()
