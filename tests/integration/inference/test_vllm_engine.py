import asyncio
import dataclasses
import gc
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from finery_inference.engines.protocol import EngineAdapter, EngineConfig, LoraLimits
from finery_inference.engines.vllm.environment import scratch_directory, vllm_environment
from finery_inference.engines.vllm.factory import VllmFactory
from finery_inference.engines.vllm.hardware import Hardware, is_cpu_build
from finery_inference.engines.vllm.tuning import TUNING
from finery_shared.errors import FineryError, Reason
from tests.unit.inference.adapter_directories import write_adapter
from tests.unit.inference.engine_contract import AdapterContract, EngineContract, EngineUnderTest
from tests.unit.inference.harness import eventually

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore"),  # vLLM's, torch's and transformers' own warnings are theirs to mend
]

HARDWARE = Hardware(is_cpu_build(), kv_cache_bytes=256 * 2**20)


def engine_processes() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if child.name().startswith("VLLM")]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    before = dict(os.environ)
    state = tmp_path_factory.mktemp("engine")
    directory = scratch_directory(state)
    os.environ.update(vllm_environment(HARDWARE, os.getpid(), state, directory))
    yield directory
    assert not directory.exists()
    os.environ.clear()
    os.environ.update(before)
    # vLLM leaves a zmq context open; it is to be collected here, where its warnings are ignored.
    gc.collect()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def factory(scratch: Path) -> AsyncIterator[VllmFactory]:
    scratch.mkdir()
    (scratch / "left-by-a-killed-engine").touch()
    made = VllmFactory(HARDWARE, scratch)
    yield made
    await made.close()


async def start(factory: VllmFactory, model: Path) -> EngineUnderTest:
    engine = await factory.start(EngineConfig(model, max_model_len=2048, lora=LoraLimits(2, 8)))

    async def kill() -> None:
        for process in engine_processes():
            process.kill()

    return EngineUnderTest(engine, kill)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def subject(factory: VllmFactory, smollm2: Path) -> AsyncIterator[EngineUnderTest]:
    """One engine for all tests; the last one of the contract's kills it."""
    started = await start(factory, smollm2)
    yield started
    await started.engine.shutdown()


class TestVllmAdapters(AdapterContract):
    @pytest.fixture(scope="class")
    def adapters(self, tmp_path_factory: pytest.TempPathFactory) -> tuple[EngineAdapter, EngineAdapter]:
        sizes = {"q_proj": (576, 576), "v_proj": (576, 192)}
        one, two = (
            EngineAdapter(
                number, name, write_adapter(tmp_path_factory.mktemp("adapter") / name, sizes, layers=30, seed=number)
            )
            for number, name in enumerate(("one", "two"), start=1)
        )
        return one, two


class TestVllmEngine(EngineContract):
    @pytest.fixture
    def doomed(self, subject: EngineUnderTest) -> EngineUnderTest:
        return subject

    @pytest_asyncio.fixture(loop_scope="module")
    async def ending(self, factory: VllmFactory, smollm2: Path) -> EngineUnderTest:
        return await start(factory, smollm2)


async def test_nothing_is_left_of_a_shut_down_engine() -> None:
    _, alive = psutil.wait_procs(engine_processes(), timeout=10)
    assert not alive


async def test_a_cancelled_start_ends_when_nothing_is_left_of_it(factory: VllmFactory, smollm2: Path) -> None:
    starting = asyncio.create_task(factory.start(EngineConfig(smollm2, max_model_len=512)))
    await eventually(lambda: bool(engine_processes()), seconds=120)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not engine_processes()


async def test_a_shutdown_waits_for_the_end_of_one_that_was_cancelled(factory: VllmFactory, smollm2: Path) -> None:
    engine = await factory.start(EngineConfig(smollm2, max_model_len=512))
    first = asyncio.create_task(engine.shutdown())
    await asyncio.sleep(0)
    first.cancel()
    await engine.shutdown()
    assert not engine_processes()


async def test_what_may_be_tuned_is_vllms(factory: VllmFactory) -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs

    assert not TUNING - {field.name for field in dataclasses.fields(AsyncEngineArgs)}


async def test_what_vllm_refuses_is_told(factory: VllmFactory, smollm2: Path) -> None:
    with pytest.raises(FineryError, match="cache_dtype") as refusal:
        await factory.start(EngineConfig(smollm2, extra={"kv_cache_dtype": "fp3"}))
    assert refusal.value.reason is Reason.ENGINE_FAILED
