"""Work that nobody waits for ends at the engine: the client has left, or the time is over."""

import asyncio

import grpc
import pytest

from finery.inference.v1 import inference_pb2 as i
from finery.inference.v1.inference_pb2_grpc import InferenceServiceStub
from tests.integration.serving.asking import CHAT, body, client, error_code, stream, tokens, until
from tests.integration.serving.serving import Serving

RATE = 50.0
LONG = 1800
"""Tokens that would take half a minute."""
SLOW_START = {"FINERY_INFERENCE_FAKE_FIRST_TOKEN_SECONDS": "30"}


@pytest.mark.parametrize("after_first_token", [False, True])
@pytest.mark.parametrize("streamed", [False, True])
async def test_client_that_leaves(serving: Serving, streamed: bool, after_first_token: bool) -> None:
    replica = serving.replica("toy", rate=RATE, **({} if after_first_token else SLOW_START))
    async with client(serving.gateway(replica)) as http:
        asking = asyncio.create_task(http.post(CHAT, json=body(tokens=LONG, stream=streamed)))
        await until(lambda: replica.running() == 1)
        if after_first_token:
            await until(lambda: replica.stats().generated_tokens > 0)
        asking.cancel()
        made = (await asyncio.to_thread(replica.stats)).generated_tokens
        await until(lambda: replica.running() == 0, seconds=5)
    made_after_the_leave = (await asyncio.to_thread(replica.stats)).generated_tokens - made
    assert made_after_the_leave < 5 * RATE
    assert after_first_token == (made > 0)


@pytest.mark.parametrize("streamed", [False, True])
async def test_time_is_over_before_the_first_token(serving: Serving, streamed: bool) -> None:
    replica = serving.replica("toy", **SLOW_START)
    async with client(serving.gateway(replica, FINERY_GATEWAY_REQUEST_SECONDS="1")) as http:
        answer = await http.post(CHAT, json=body(tokens=LONG, stream=streamed))
        assert (answer.status_code, error_code(answer.text)) == (504, "timeout")
        await until(lambda: replica.running() == 0)


async def test_time_is_over_in_mid_stream(serving: Serving) -> None:
    replica = serving.replica("toy", rate=RATE)
    async with client(serving.gateway(replica, FINERY_GATEWAY_REQUEST_SECONDS="1")) as http:
        events = await stream(http, tokens=LONG)
        whole = await http.post(CHAT, json=body(tokens=LONG))
        await until(lambda: replica.running() == 0)
    assert error_code(events[-1]) == "timeout"
    assert "[DONE]" not in events
    assert 0 < tokens(events) < LONG
    assert (whole.status_code, error_code(whole.text)) == (504, "timeout")
    assert (await asyncio.to_thread(replica.stats)).generated_tokens < LONG


async def test_deadline_of_a_grpc_call_ends_the_engines_work(serving: Serving) -> None:
    replica = serving.replica("toy", rate=RATE)
    request = i.GenerateRequest(model="toy", text={"text": "hi"}, sampling={"max_tokens": LONG, "ignore_eos": True})
    async with grpc.aio.insecure_channel(replica.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in InferenceServiceStub(channel).Generate(request, timeout=0.5):
                pass
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: replica.running() == 0)
    assert (await asyncio.to_thread(replica.stats)).generated_tokens < LONG
