"""One engine starts at a time, and none beside one that is on its way out."""

import asyncio
import threading
from pathlib import Path

from finery.inference.v1 import deployments_pb2 as d
from finery_inference.engines.fake import FakeEngine, FakeEngineFactory
from finery_inference.engines.protocol import EngineConfig
from finery_inference.engines.threads import made_in_daemon_thread
from tests.unit.inference.harness import Harness, eventually, write_model


class StubbornFactory(FakeEngineFactory):
    """Its starts go on in their threads when they are cancelled, as vLLM's do."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.under_way, self.most_at_once = 0, 0, 0
        self.go_on = threading.Event()

    async def start(self, config: EngineConfig) -> FakeEngine:
        def build() -> FakeEngine:
            self.begun += 1
            self.under_way += 1
            self.most_at_once = max(self.most_at_once, self.under_way)
            assert self.go_on.wait(30)
            self.engines.append(FakeEngine(config, self.pace))
            self.under_way -= 1
            return self.engines[-1]

        return await made_in_daemon_thread(build, FakeEngine.die, "start")


class SlowToEnd(FakeEngine):
    """Gives its memory back when it is told to."""

    async def shutdown(self) -> None:
        self.asked_to_end = True
        await self.ended.wait()
        await super().shutdown()

    asked_to_end = False
    ended: asyncio.Event


class SlowToEndFactory(FakeEngineFactory):
    """Makes them."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = asyncio.Event()

    async def start(self, config: EngineConfig) -> FakeEngine:
        engine = SlowToEnd(config, self.pace)
        engine.ended = self.ended
        self.engines.append(engine)
        return engine


async def create(harness: Harness, name: str) -> d.Deployment:
    path = harness.home / "toy-chat"
    path = path if path.is_dir() else write_model(path)
    return await harness.create(model={"model_id_or_path": str(path)}, served_model_name=name)


async def delete(harness: Harness, deployment: d.Deployment) -> None:
    await harness.deployments.DeleteDeployment(d.DeleteDeploymentRequest(name=deployment.name))


async def test_the_next_start_waits_until_an_abandoned_one_is_undone(tmp_path: Path) -> None:
    factory = StubbornFactory()
    harness = Harness(tmp_path, factory=factory)
    await harness.start()
    first = await create(harness, "first")
    await eventually(lambda: factory.begun == 1)
    await asyncio.wait_for(delete(harness, first), 2)
    await create(harness, "second")
    await asyncio.sleep(0.2)
    assert factory.begun == 1
    factory.go_on.set()
    await harness.until("second", d.DEPLOYMENT_STATE_READY)
    assert [engine.alive for engine in factory.engines] == [False, True]
    assert factory.most_at_once == 1
    await harness.stop()


async def test_one_that_waits_for_its_turn_can_be_deleted(tmp_path: Path) -> None:
    factory = StubbornFactory()
    harness = Harness(tmp_path, factory=factory)
    await harness.start()
    await create(harness, "first")
    await eventually(lambda: factory.begun == 1)
    second = await create(harness, "second")
    await asyncio.wait_for(delete(harness, second), 2)
    await create(harness, "third")
    factory.go_on.set()
    await harness.until("third", d.DEPLOYMENT_STATE_READY)
    assert factory.begun == len(await harness.list()) == 2
    await harness.stop()


async def test_a_stopping_process_does_not_wait_for_an_abandoned_start(tmp_path: Path) -> None:
    factory = StubbornFactory()
    harness = Harness(tmp_path, factory=factory)
    await harness.start()
    await create(harness, "first")
    await eventually(lambda: factory.begun == 1)
    await asyncio.wait_for(harness.stop(), 5)
    factory.go_on.set()
    await eventually(lambda: len(factory.engines) == 1 and not factory.engines[0].alive)


async def test_the_next_start_waits_for_an_engine_that_ends(tmp_path: Path) -> None:
    factory = SlowToEndFactory()
    harness = Harness(tmp_path, factory=factory)
    await harness.start()
    first = await create(harness, "first")
    await harness.until("first", d.DEPLOYMENT_STATE_READY)
    dying = factory.engines[0]
    assert isinstance(dying, SlowToEnd)
    dying.die()
    await eventually(lambda: dying.asked_to_end)
    # It comes while the dead engine is cleared away, and cancels that.
    deleting = asyncio.create_task(delete(harness, first))
    await create(harness, "second")
    await asyncio.sleep(0.2)
    assert not deleting.done()
    assert len(factory.engines) == 1
    factory.ended.set()
    await deleting
    await harness.until("second", d.DEPLOYMENT_STATE_READY)
    await harness.stop()
