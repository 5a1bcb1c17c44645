import asyncio
import signal
import time
from pathlib import Path

import pytest

from finery.inference.v1 import deployments_pb2 as d
from finery_inference.engines.vllm.environment import scratch_directory
from tests.integration.inference.service import Services, connect, reason_of
from tests.unit.inference.harness import write_model

SLOW = {"FINERY_INFERENCE_FAKE_TOKENS_PER_SECOND": "50"}


async def test_a_killed_service_comes_back_with_its_deployments(services: Services) -> None:
    path = write_model(services.home / "toy-chat")
    first = services.start(**SLOW)
    async with connect(first) as client:
        await client.create(path)
        await client.create(path, "n")
        made = await client.until(d.DEPLOYMENT_STATE_READY)
        call = client.generate("hi", max_tokens=1000, ignore_eos=True)
        await anext(aiter(call))
        start = time.monotonic()
        first.kill()
        assert await reason_of(call) == "SERVICE_UNAVAILABLE"
        assert time.monotonic() - start < 10
    async with connect(services.start()) as client:
        assert await client.until(d.DEPLOYMENT_STATE_READY) == made
        assert (await client.answer("hi", max_tokens=3))[1].usage.completion_tokens == 3
        await client.until(d.DEPLOYMENT_STATE_READY, "n")


async def test_sigterm_lets_running_streams_finish(services: Services) -> None:
    path = write_model(services.home / "toy-chat")
    service = services.start(**SLOW)
    async with connect(service) as client:
        await client.create(path)
        await client.until(d.DEPLOYMENT_STATE_READY)
        answer = asyncio.create_task(client.answer("hi", max_tokens=40, ignore_eos=True))
        await asyncio.sleep(0.2)
        service.popen.send_signal(signal.SIGTERM)
        assert (await answer)[1].usage.completion_tokens == 40
    assert await asyncio.to_thread(service.popen.wait, 10) == 0


async def test_two_processes_of_one_home_have_deployments_of_their_own(services: Services) -> None:
    path = write_model(services.home / "toy-chat")
    first, second = services.start(), services.start(FINERY_INFERENCE_INSTANCE="1")
    async with connect(first) as client, connect(second) as other:
        await client.create(path)
        await client.until(d.DEPLOYMENT_STATE_READY)
        response = await other.deployments.ListDeployments(d.ListDeploymentsRequest())
        assert not response.deployments


async def test_one_process_owns_its_deployments_and_its_engines_files(services: Services) -> None:
    first = services.start()
    await asyncio.to_thread(first.address)
    scratch = services.home / scratch_directory(services.home / "inference" / "0").name
    scratch.mkdir()
    (scratch / "socket-of-a-running-engine").touch()
    second = services.start("vllm", TMPDIR=str(services.home))
    assert await asyncio.to_thread(second.popen.wait, 30) == 1
    assert "ALREADY_RUNNING" in second.log.read_text()
    assert str(first.popen.pid) in second.log.read_text()
    assert (scratch / "socket-of-a-running-engine").exists()


async def test_a_port_in_use_is_told_with_the_setting(services: Services) -> None:
    first = services.start()
    address = await asyncio.to_thread(first.address)
    second = services.start(FINERY_INFERENCE_LISTEN=address, FINERY_INFERENCE_INSTANCE="1")
    assert await asyncio.to_thread(second.popen.wait, 30) == 1
    log = second.log.read_text()
    assert "PORT_IN_USE" in log
    assert "FINERY_INFERENCE_LISTEN" in log


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ENGINE", "llama.cpp"),
        ("LISTEN", "nowhere"),
        ("LISTEN", "0.0.0.0:0"),
        ("CPU_KV_CACHE_MIB", "-1"),
        ("INSTANCE", "../x"),
    ],
)
async def test_a_bad_setting_is_named(services: Services, name: str, value: str) -> None:
    variable = f"FINERY_INFERENCE_{name}"
    service = services.start(**{variable: value})
    assert await asyncio.to_thread(service.popen.wait, 30) == 1
    assert variable in service.log.read_text()


async def test_the_service_starts_without_heavy_imports(services: Services) -> None:
    start = time.monotonic()
    service = services.start()
    await asyncio.to_thread(service.address, 20)
    assert time.monotonic() - start < 20
    maps = Path(f"/proc/{service.popen.pid}/maps").read_text()
    assert "libtorch" not in maps
