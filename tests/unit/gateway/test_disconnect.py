"""A client that leaves ends the engine's work, whatever it was waiting for."""

import asyncio
import json

import pytest
from structlog.testing import capture_logs

from tests.fakes.inference_service import FakeInference, Script
from tests.unit.gateway.conftest import Start
from tests.unit.gateway.waiting import until

BODY = {"model": "toy", "messages": [{"role": "user", "content": "hi"}]}


async def send_request(url: str, stream: bool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A bare HTTP client, which can leave at any point."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = json.dumps(BODY | {"stream": stream}).encode()
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
    await writer.drain()
    return reader, writer


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("stream", [False, True])
async def test_before_the_first_token(url: str, fake: FakeInference, stream: bool) -> None:
    fake.script = lambda request: Script(first_delay=60)
    with capture_logs() as lines:
        _, writer = await send_request(url, stream)
        await until(lambda: fake.running == 1)
        await hang_up(writer)
        await until(lambda: fake.cancelled == 1, seconds=2)
        assert (fake.running, fake.finished, len(fake.requests)) == (0, 0, 1)
        await until(lambda: any(line["event"] == "request" for line in lines))
    [line] = [line for line in lines if line["event"] == "request"]
    assert (line["status"], line["client_left"]) == (499, True)


@pytest.mark.parametrize("stream", [False, True])
async def test_after_the_first_token(url: str, fake: FakeInference, stream: bool) -> None:
    fake.script = lambda request: Script(pieces=["x"] * 100, delay=1)
    reader, writer = await send_request(url, stream)
    await until(lambda: fake.running == 1)
    if stream:
        await asyncio.wait_for(reader.readuntil(b'"content":"x"'), 10)
    await hang_up(writer)
    await until(lambda: fake.cancelled == 1, seconds=2)
    assert (fake.running, fake.finished) == (0, 0)


async def test_client_that_stops_reading_holds_the_engine_back(url: str, fake: FakeInference) -> None:
    """Back-pressure: what nobody reads is not made, and it ends when the client leaves."""
    fake.script = lambda request: Script(pieces=["x" * 10_000] * 10_000)
    _, writer = await send_request(url, stream=True)
    await until(lambda: fake.running == 1)
    await asyncio.sleep(0.5)
    assert fake.finished == 0
    await hang_up(writer)
    await until(lambda: fake.cancelled == 1)


@pytest.mark.parametrize("script", [Script(pieces=["x" * 10_000] * 10_000), Script(pieces=["x" * 2**23, ""], delay=60)])
async def test_client_that_stops_reading_for_long_is_cut_off(
    start_gateway: Start, fake: FakeInference, script: Script
) -> None:
    """Whether a piece of the answer waits to be written, or a keep-alive comment."""
    fake.script = lambda request: script
    url = await start_gateway(fake, send_seconds=0.3, keepalive_seconds=0.1)
    with capture_logs() as lines:
        reader, writer = await send_request(url, stream=True)
        await until(lambda: fake.cancelled == 1)
        await until(lambda: any(line["event"] == "request" for line in lines))
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(2**30), 10)
    await hang_up(writer)
    [line] = [line for line in lines if line["event"] == "request"]
    assert (line["client_left"], line["stopped_reading"]) == (True, True)


async def test_client_that_reads_slowly_gets_everything(start_gateway: Start, fake: FakeInference) -> None:
    fake.script = lambda request: Script(pieces=["x" * 100_000] * 100)
    url = await start_gateway(fake, send_seconds=0.3, keepalive_seconds=0.1)
    reader, writer = await send_request(url, stream=True)
    seen = b""
    async with asyncio.timeout(20):
        while b"[DONE]" not in seen[-100:]:
            seen += await reader.read(2**17)
            await asyncio.sleep(0.01)
    assert seen.count(b"x") > 10_000_000
    await hang_up(writer)


async def test_a_finished_stream_was_not_cancelled(url: str, fake: FakeInference) -> None:
    for stream in (True, False) * 10:
        reader, writer = await send_request(url, stream)
        await asyncio.wait_for(reader.readuntil(b"[DONE]" if stream else b'"usage"'), 10)
        await hang_up(writer)
    await until(lambda: fake.finished == 20)
    assert fake.cancelled == 0
