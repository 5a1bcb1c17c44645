"""GET /metrics: what was asked, how fast it was answered, and by whom."""

import asyncio
from contextlib import AsyncExitStack

import httpx
import pytest

from finery.inference.v1 import inference_pb2 as pb
from finery_shared.errors import FineryError, Reason
from tests.fakes.inference_service import FakeInference, Script
from tests.fakes.samples import Samples, parse, value
from tests.unit.gateway.conftest import Start
from tests.unit.gateway.waiting import until

BODY = {"model": "toy", "messages": [{"role": "user", "content": "hi"}]}
CHAT = "/v1/chat/completions"


async def read(http: httpx.AsyncClient, **headers: str) -> Samples:
    answer = await http.get("/metrics", headers=headers)
    assert answer.status_code == 200
    return parse(answer.text)


async def ask(http: httpx.AsyncClient, **parameters: object) -> None:
    await http.post(CHAT, json=BODY | parameters)


async def counted(http: httpx.AsyncClient, requests: int) -> Samples:
    """The figures once so many requests are in them: they are counted after the client has its answer."""
    async with asyncio.timeout(10):
        while True:
            samples = await read(http)
            if sum(v for (name, _), v in samples.items() if name == "finery_gateway_requests_total") >= requests:
                return samples
            await asyncio.sleep(0.01)


async def test_requests_by_model_endpoint_and_status(http: httpx.AsyncClient, fake: FakeInference) -> None:
    await ask(http)
    await ask(http, stream=True)
    await ask(http, temperature=7)
    fake.script = lambda request: Script(failure=FineryError(Reason.QUEUE_FULL, "Full."))
    await ask(http)
    await http.post("/tokenize", json={"model": "toy", "prompt": "hi"})
    samples = await counted(http, 5)

    def total(**labels: str) -> float | None:
        return value(samples, "finery_gateway_requests_total", **labels)

    assert total(model="toy", endpoint=CHAT, status="200") == 2
    assert total(model="", endpoint=CHAT, status="400") == 1
    assert total(model="toy", endpoint=CHAT, status="429") == 1
    assert total(model="toy", endpoint="/tokenize", status="200") == 1
    assert value(samples, "finery_gateway_request_duration_seconds_count", model="toy", endpoint=CHAT) == 3
    assert value(samples, "finery_gateway_requests_in_flight") == 0


async def test_tokens_and_latencies_by_model(http: httpx.AsyncClient, fake: FakeInference) -> None:
    usage = pb.Usage(prompt_tokens=10, completion_tokens=3, cached_tokens=8)
    fake.script = lambda request: Script(pieces=["a", "b", "c"], first_delay=0.1, delay=0.1, usage=usage)
    await ask(http, stream=True)
    await ask(http)
    samples = await counted(http, 2)
    assert value(samples, "finery_gateway_prompt_tokens_total", model="toy") == 20
    assert value(samples, "finery_gateway_generated_tokens_total", model="toy") == 6
    assert value(samples, "finery_gateway_cached_tokens_total", model="toy") == 16
    # Only a client that streams sees tokens.
    assert value(samples, "finery_gateway_time_to_first_token_seconds_count", model="toy") == 1
    assert value(samples, "finery_gateway_inter_token_latency_seconds_count", model="toy") == 1
    first = value(samples, "finery_gateway_time_to_first_token_seconds_sum", model="toy")
    between = value(samples, "finery_gateway_inter_token_latency_seconds_sum", model="toy")
    assert first is not None and first >= 0.1
    assert between is not None and 0.09 < between < first + 2


async def test_answers_side_by_side_count_their_own_tokens(http: httpx.AsyncClient, fake: FakeInference) -> None:
    fake.script = lambda request: Script(pieces=["a", "b", "c"], delay=0.2)
    await ask(http, stream=True, n=4)
    between = value(await counted(http, 1), "finery_gateway_inter_token_latency_seconds_sum", model="toy")
    # Two gaps of 0.2 s each; counted over the twelve tokens of all answers the mean would be 0.04 s.
    assert between is not None and between > 0.15


async def test_no_client_invents_a_series(http: httpx.AsyncClient) -> None:
    for number in range(20):
        await ask(http, model=f"invented-{number}")
        await http.get(f"/v1/models/invented-{number}")
        await http.get(f"/invented-{number}")
    await counted(http, 60)
    assert "nvent" not in (await http.get("/metrics")).text


async def test_health_and_metrics_are_no_requests(http: httpx.AsyncClient) -> None:
    for path in ("/health", "/ready", "/metrics"):
        await http.get(path)
    samples = await read(http)
    assert not [name for name, _ in samples if name == "finery_gateway_requests_total"]
    assert value(samples, "finery_gateway_requests_in_flight") == 0


async def test_backends(start_gateway: Start, fake: FakeInference) -> None:
    fake.script = lambda request: Script(pieces=["a"] * 1000, delay=0.05)
    gone = FakeInference(["toy"])
    await gone.start()
    url = await start_gateway(fake, gone)
    await gone.stop()
    async with httpx.AsyncClient(base_url=url, timeout=20) as http, AsyncExitStack() as stack:
        async with asyncio.timeout(10):
            samples = await read(http)
            while value(samples, "finery_gateway_backend_connected", backend=gone.address) != 0:
                await asyncio.sleep(0.02)
                samples = await read(http)
        assert value(samples, "finery_gateway_backend_connected", backend=fake.address) == 1
        silence = value(samples, "finery_gateway_backend_silence_seconds", backend=fake.address)
        assert silence is not None and 0 <= silence < 5
        answer = await stack.enter_async_context(http.stream("POST", CHAT, json=BODY | {"stream": True}))
        # Held on to: an iterator that nothing holds is closed when it is collected, and closes its answer.
        pieces = answer.aiter_bytes()
        await anext(pieces)
        async with asyncio.timeout(10):
            while value(samples := await read(http), "finery_gateway_backend_in_flight", backend=fake.address) != 1:
                await asyncio.sleep(0.02)
        assert value(samples, "finery_gateway_requests_in_flight") == 1


async def test_moves_and_clients_that_leave(start_gateway: Start, fake: FakeInference) -> None:
    full = FakeInference(["toy"])
    await full.start()
    for each in (fake, full):
        each.script = lambda request: Script(failure=FineryError(Reason.QUEUE_FULL, "Full."))
    async with httpx.AsyncClient(base_url=await start_gateway(fake, full), timeout=20) as http:
        await ask(http)
        assert value(await counted(http, 1), "finery_gateway_moves_total", model="toy") == 1
        for each in (fake, full):
            each.script = lambda request: Script(first_delay=60)
        with pytest.raises(httpx.ReadTimeout):
            await http.post(CHAT, json=BODY, timeout=0.3)
        samples = await counted(http, 2)
    assert value(samples, "finery_gateway_client_left_total", model="toy") == 1
    assert value(samples, "finery_gateway_requests_total", model="toy", endpoint=CHAT, status="499") == 1
    await until(lambda: fake.running + full.running == 0)
    await full.stop()


async def test_no_key_is_needed_unless_that_is_set(start_gateway: Start, fake: FakeInference) -> None:
    async with httpx.AsyncClient(base_url=await start_gateway(fake, api_keys=("k",))) as http:
        await read(http)
    url = await start_gateway(fake, api_keys=("k",), metrics_guarded=True)
    async with httpx.AsyncClient(base_url=url) as http:
        assert (await http.get("/metrics")).status_code == 401
        await read(http, authorization="Bearer k")
