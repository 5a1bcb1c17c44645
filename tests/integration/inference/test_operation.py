"""What whoever runs an inference process sees of it: health, drain, figures, request ids."""

import asyncio
import json
import signal
import urllib.request

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from finery.inference.v1 import deployments_pb2 as d
from finery.inference.v1 import inference_pb2 as i
from finery.inference.v1 import inference_pb2_grpc
from finery_shared.rpc import RpcSecurity, open_channel
from tests.fakes.samples import Samples, parse, value
from tests.integration.inference.service import Service, Services, connect, reason_of
from tests.unit.inference.harness import write_model

SLOW = {"FINERY_INFERENCE_FAKE_TOKENS_PER_SECOND": "20"}
INFERENCE = "finery.inference.v1.InferenceService"
TOKEN = "a-token-of-the-tests"


async def serving(channel: grpc.aio.Channel) -> bool:
    answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=INFERENCE))
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def test_a_process_that_drains_says_so_and_finishes_what_runs(services: Services) -> None:
    service = services.start(**SLOW)
    async with connect(service) as client, open_channel(service.address()) as channel:
        await client.create(write_model(services.home / "toy-chat"))
        await client.until(d.DEPLOYMENT_STATE_READY)
        assert await serving(channel)
        running = asyncio.create_task(client.answer("hi", max_tokens=60, ignore_eos=True))
        watch = client.deployments.WatchDeployments(d.WatchDeploymentsRequest())
        assert not (await watch.read()).draining
        await asyncio.sleep(0.3)
        service.popen.send_signal(signal.SIGTERM)
        async with asyncio.timeout(2):
            while not (await watch.read()).draining:
                pass
            while await serving(channel):
                await asyncio.sleep(0.02)
        assert not running.done()
        assert await reason_of(client.generate("hi")) == "SERVICE_UNAVAILABLE"
        assert (await running)[1].usage.completion_tokens == 60
    assert await asyncio.to_thread(service.popen.wait, 10) == 0


async def test_a_request_id_stands_in_the_log(services: Services) -> None:
    service = services.start()
    async with connect(service) as client, open_channel(service.address()) as channel:
        await client.create(write_model(services.home / "toy-chat"))
        await client.until(d.DEPLOYMENT_STATE_READY)
        call = inference_pb2_grpc.InferenceServiceStub(channel).Generate(
            i.GenerateRequest(model="m", text=i.TextPrompt(text="hi")), metadata=(("x-request-id", "req-of-a-client"),)
        )
        assert [event async for event in call][-1].HasField("complete")
        async with asyncio.timeout(10):
            while not (found := [line for line in logged(service) if line.get("request_id") == "req-of-a-client"]):
                await asyncio.sleep(0.05)
    assert [(line["event"], line["method"], line["code"]) for line in found] == [
        ("call", f"/{INFERENCE}/Generate", "OK")
    ]


def logged(service: Service) -> list[dict[str, object]]:
    return [json.loads(line) for line in service.log.read_text().splitlines() if line.startswith("{")]


async def scrape(service: Service) -> Samples:
    [address] = [line["address"] for line in logged(service) if line["event"] == "showing metrics"]

    def get() -> str:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    return parse(await asyncio.to_thread(get))


async def test_metrics_and_token(services: Services) -> None:
    settings = {"FINERY_INFERENCE_METRICS_LISTEN": "127.0.0.1:0", "FINERY_RPC_TOKEN": TOKEN}
    service = services.start(**settings)
    async with connect(service) as stranger:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stranger.create(write_model(services.home / "toy-chat"))
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
    async with connect(service, RpcSecurity.from_env(settings)) as client:
        await client.create(services.home / "toy-chat")
        await client.until(d.DEPLOYMENT_STATE_READY)
        await client.answer("hi", max_tokens=7, ignore_eos=True)
    samples = await scrape(service)
    assert value(samples, "finery_inference_generated_tokens_total", model="m") == 7
    create = "/finery.inference.v1.DeploymentService/CreateDeployment"
    assert value(samples, "finery_rpc_calls_total", method=create, code="UNAUTHENTICATED") == 1
    assert TOKEN not in service.log.read_text()
    service.popen.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(service.popen.wait, 15) == 0
