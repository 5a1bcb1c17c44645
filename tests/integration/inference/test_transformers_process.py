"""The native engine under a real service: asked for by its name, killed and started again, gone with its service."""

import time
from pathlib import Path

import psutil

from finery.inference.v1 import deployments_pb2 as d
from finery_inference.engines.transformers.process import WORKER
from tests.integration.inference.service import Service, Services, connect, gone_within, reason_of


def workers(service: Service) -> list[psutil.Process]:
    children = psutil.Process(service.popen.pid).children(recursive=True)
    return [child for child in children if WORKER in child.cmdline()]


async def test_a_killed_worker_is_started_again_and_ends_with_its_service(services: Services, smollm2: Path) -> None:
    service = services.start("vllm", FINERY_INFERENCE_ALLOWED_ROOTS=str(smollm2.parent))
    async with connect(service) as client:
        await client.create(smollm2, infer_backend="pt", max_model_len=512)
        made = await client.until(d.DEPLOYMENT_STATE_READY)
        assert made.spec.infer_backend == "transformers"
        expected, complete = await client.answer("Who are you?", max_tokens=8, temperature=0.0)
        assert expected
        assert complete.usage.completion_tokens == 8
        first = workers(service)
        services.watch_over(first)
        call = client.generate("hi", max_tokens=400, ignore_eos=True)
        await anext(aiter(call))
        start = time.monotonic()
        first[0].kill()
        assert await reason_of(call) == "ENGINE_DEAD"
        assert time.monotonic() - start < 5
        await client.until(d.DEPLOYMENT_STATE_LOADING)
        await client.until(d.DEPLOYMENT_STATE_READY)
        assert (await client.answer("Who are you?", max_tokens=8, temperature=0.0))[0] == expected
        second = workers(service)
        services.watch_over(second)
    with gone_within(5, second):
        service.kill()
