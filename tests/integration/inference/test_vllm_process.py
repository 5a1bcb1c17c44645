import asyncio
import time
from pathlib import Path

import pytest

from finery.inference.v1 import deployments_pb2 as d
from finery.inference.v1 import inference_pb2 as i
from tests.integration.inference.service import Service, Services, connect, gone_within, reason_of


def start(services: Services, model: Path, cache_mib: int = 256, **more: str) -> Service:
    settings = {"ALLOWED_ROOTS": str(model.resolve()), "CPU_KV_CACHE_MIB": str(cache_mib), **more}
    return services.start("vllm", **{f"FINERY_INFERENCE_{name}": value for name, value in settings.items()})


@pytest.mark.timeout(400)
async def test_a_real_model_through_kills_of_engine_and_service(services: Services, smollm2: Path) -> None:
    service = start(services, smollm2)
    async with connect(service) as client:
        await client.create(smollm2, max_model_len=1024)
        ready = await client.until(d.DEPLOYMENT_STATE_READY)
        assert ready.max_model_len == 1024

        text, complete = await client.answer("What is the capital of France?", temperature=0, max_tokens=60)
        assert "Paris" in text
        assert complete.finishes[0].finish_reason == i.FINISH_REASON_STOP
        again, warm = await client.answer("What is the capital of France?", temperature=0, max_tokens=60)
        assert again == text
        assert warm.usage.prompt_tokens == complete.usage.prompt_tokens > 30

        # Clients that leave leave nothing running, by vLLM's own count: one after its request was seen running, then
        # three before their first token. Each would get 900 tokens if it stayed.
        before = (await client.stats(ready.name)).generated_tokens
        call = client.generate("Tell me a long story.", max_tokens=900, ignore_eos=True)
        assert await client.settled(ready.name, lambda running: running == 1)
        call.cancel()
        assert await client.settled(ready.name, lambda running: running == 0)
        for _ in range(3):
            call = client.generate("word " * 100, max_tokens=900, ignore_eos=True)
            await asyncio.sleep(0.05)
            call.cancel()
        await asyncio.sleep(0.1)
        assert await client.settled(ready.name, lambda running: running == 0)
        assert 0 < (await client.stats(ready.name)).generated_tokens - before < 900

        # The engine is killed in the middle of an answer: an error at once, then it is back.
        call = client.generate("Tell me a long story.", max_tokens=900, ignore_eos=True)
        await anext(aiter(call))
        engines = await asyncio.to_thread(service.engines)
        died = time.monotonic()
        for process in engines:
            process.kill()
        assert await reason_of(call) == "ENGINE_DEAD"
        assert time.monotonic() - died < 5
        await client.until(d.DEPLOYMENT_STATE_FAILED)
        await client.until(d.DEPLOYMENT_STATE_READY)
        assert (await client.answer("What is the capital of France?", temperature=0, max_tokens=60))[0] == text

        # The service is killed: its engine ends with it, and the next service loads the model again.
        with gone_within(5, service.engines()):
            services.watch_over(service.engines())
            service.kill()
    async with connect(start(services, smollm2)) as client:
        assert (await client.until(d.DEPLOYMENT_STATE_READY)).name == ready.name
        assert (await client.answer("What is the capital of France?", temperature=0, max_tokens=60))[0] == text


@pytest.mark.timeout(300)
async def test_a_model_that_does_not_fit_and_sigterm_while_one_loads(services: Services, smollm2: Path) -> None:
    service = start(services, smollm2, cache_mib=16)
    async with connect(service) as client:
        await client.create(smollm2, "large", max_model_len=8192)
        failed = await client.until(d.DEPLOYMENT_STATE_FAILED, "large")
        assert failed.error.reason == "ENGINE_FAILED"
        assert "8192" in failed.error.message
        assert "KV cache" in failed.error.message

        await client.create(smollm2, max_model_len=256)
        async with asyncio.timeout(60):
            while not (engines := await asyncio.to_thread(service.engines)):
                await asyncio.sleep(0.1)
        services.watch_over(engines)
        with gone_within(5, engines):
            service.popen.terminate()
            assert await asyncio.to_thread(service.popen.wait, 15) == 0


@pytest.mark.timeout(300)
async def test_a_hung_engine_is_noticed_and_replaced(services: Services, smollm2: Path) -> None:
    service = start(services, smollm2, HUNG_SECONDS="10")
    async with connect(service) as client:
        await client.create(smollm2, max_model_len=1024)
        await client.until(d.DEPLOYMENT_STATE_READY)
        text, _ = await client.answer("What is the capital of France?", temperature=0, max_tokens=60)

        # A busy engine is left alone, though its consumers are slow: one reads nothing for longer than the limit.
        call = client.generate("Tell me a story.", max_tokens=200, ignore_eos=True)
        await anext(aiter(call))
        await asyncio.sleep(12)
        assert await reason_of(call) == "it did not fail"

        call = client.generate("Tell me a long story.", max_tokens=900, ignore_eos=True)
        await anext(aiter(call))
        engines = await asyncio.to_thread(service.engines)
        services.watch_over(engines)
        with gone_within(30, engines):
            stopped = time.monotonic()
            for process in engines:
                process.suspend()
            assert await reason_of(call) == "ENGINE_DEAD"
            assert time.monotonic() - stopped < 15
            assert (await client.until(d.DEPLOYMENT_STATE_FAILED)).error.reason == "ENGINE_DEAD"
        await client.until(d.DEPLOYMENT_STATE_READY)
        again, _ = await client.answer("What is the capital of France?", temperature=0, max_tokens=60)
        assert again == text
        assert len(await asyncio.to_thread(service.engines)) == len(engines)
