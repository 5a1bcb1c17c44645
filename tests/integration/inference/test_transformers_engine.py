import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from finery_inference.engines.protocol import EngineConfig
from finery_inference.engines.transformers.factory import TransformersFactory
from finery_inference.engines.transformers.process import WORKER
from finery_shared.errors import FineryError, Reason
from tests.unit.inference.engine_contract import EngineContract, EngineUnderTest

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore"),  # torch's and transformers' own warnings are theirs to mend
]


def workers() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if _is_worker(child)]


def _is_worker(process: psutil.Process) -> bool:
    try:
        return WORKER in process.cmdline()
    except psutil.NoSuchProcess:  # it has just ended
        return False


async def start(model: Path, **config: object) -> EngineUnderTest:
    factory = TransformersFactory(cache_bytes=256 * 2**20)
    engine = await factory.start(EngineConfig(model, **{"max_model_len": 2048, **config}))  # type: ignore[arg-type]

    async def kill() -> None:
        for process in workers():
            process.kill()

    return EngineUnderTest(engine, kill)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def subject(smollm2: Path) -> AsyncIterator[EngineUnderTest]:
    """One engine for all tests; the last one of the contract's kills it."""
    started = await start(smollm2)
    yield started
    await started.engine.shutdown()


class TestTransformersEngine(EngineContract):
    @pytest.fixture
    def doomed(self, subject: EngineUnderTest) -> EngineUnderTest:
        return subject

    @pytest_asyncio.fixture(loop_scope="module")
    async def ending(self, smollm2: Path) -> EngineUnderTest:
        return await start(smollm2)


async def test_what_transformers_refuses_is_told(smollm2: Path, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(smollm2 / name, tmp_path)
    with pytest.raises(FineryError, match=r"could not load .*: .*safetensors") as refusal:
        await start(tmp_path)
    assert refusal.value.reason is Reason.ENGINE_FAILED


async def test_a_start_that_is_left_or_killed_is_undone(smollm2: Path) -> None:
    starting = asyncio.create_task(start(smollm2))
    while not workers():
        await asyncio.sleep(0.01)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    assert not workers()
    starting = asyncio.create_task(start(smollm2))
    while not workers():
        await asyncio.sleep(0.01)
    workers()[0].kill()
    with pytest.raises(FineryError) as refusal:
        await starting
    assert refusal.value.reason is Reason.ENGINE_DEAD


async def test_nothing_is_left_of_a_shut_down_engine() -> None:
    assert not workers()
