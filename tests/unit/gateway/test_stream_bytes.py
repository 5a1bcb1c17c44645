"""What goes over the wire in a stream, byte by byte."""

import json
from collections.abc import AsyncIterator

import httpx
from hypothesis import given
from hypothesis import strategies as st

from finery_gateway.openai import sse
from finery_shared.errors import FineryError, Reason
from tests.fakes.inference_service import FakeInference, Script
from tests.unit.gateway.conftest import Start

BODY = {"model": "toy", "messages": [{"role": "user", "content": "hi"}], "stream": True}


async def frames(http: httpx.AsyncClient, **more: object) -> list[str]:
    response = await http.post("/v1/chat/completions", json=BODY | more)
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    assert "content-length" not in response.headers
    text = response.content.decode()
    assert text.endswith("\n\n")
    return text[:-2].split("\n\n")


async def test_frames(http: httpx.AsyncClient) -> None:
    *chunks, done = await frames(http)
    assert done == "data: [DONE]"
    assert all(c.startswith("data: {") and "\n" not in c for c in chunks)
    head = {k: v for k, v in json.loads(chunks[0][6:]).items() if k != "choices"}
    assert set(head) == {"id", "object", "created", "model", "system_fingerprint"}
    expected = [
        ({"role": "assistant", "content": ""}, None),
        ({"content": "Hello"}, None),
        ({"content": ", "}, None),
        ({"content": "world"}, None),
        ({"content": ""}, "stop"),
    ]
    assert [json.loads(c[6:]) for c in chunks] == [
        head | {"choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]}
        for delta, reason in expected
    ]


async def test_usage_frames(http: httpx.AsyncClient) -> None:
    *chunks, last, done = await frames(http, stream_options={"include_usage": True})
    assert done == "data: [DONE]"
    assert [json.loads(c[6:])["usage"] for c in chunks] == [None] * 5
    usage = json.loads(last[6:])
    assert usage["choices"] == []
    assert usage["usage"] == {
        "prompt_tokens": 7,
        "completion_tokens": 3,
        "total_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


async def test_incomplete_characters_make_no_empty_frames(http: httpx.AsyncClient, fake: FakeInference) -> None:
    fake.script = lambda request: Script(pieces=("", "", "小", "", "黄"))
    chunks = [json.loads(c[6:]) for c in (await frames(http))[:-1]]
    assert [c["choices"][0]["delta"]["content"] for c in chunks] == ["", "小", "黄", ""]


async def test_a_stream_that_fails_does_not_end_like_a_finished_one(
    http: httpx.AsyncClient, fake: FakeInference
) -> None:
    fake.script = lambda request: Script(failure=FineryError(Reason.ENGINE_FAILED, "It broke."), fails_after=1)
    *_, text, error = await frames(http)
    assert json.loads(text[6:])["choices"][0]["finish_reason"] is None
    assert json.loads(error[6:]) == {
        "error": {"message": "It broke.", "type": "server_error", "param": None, "code": "engine_failed"}
    }


async def test_a_stream_that_breaks_off_is_an_error(http: httpx.AsyncClient, fake: FakeInference) -> None:
    fake.script = lambda request: Script(breaks_off=True)
    *_, error = await frames(http)
    assert json.loads(error[6:])["error"]["message"].startswith("The answer broke off")
    assert (await http.post("/v1/chat/completions", json=BODY | {"stream": False})).status_code == 500


async def test_idle_streams_are_kept_alive(start_gateway: Start, fake: FakeInference) -> None:
    fake.script = lambda request: Script(pieces=("a", "b"), first_delay=0.5, delay=0.5)
    url = await start_gateway(fake, keepalive_seconds=0.1)
    async with httpx.AsyncClient(base_url=url) as http:
        lines = [f for f in await frames(http) if f]
    first = next(i for i, line in enumerate(lines) if line.startswith("data:"))
    assert lines[0] == ": keep-alive"
    assert ": keep-alive" in lines[first + 2 : -2]
    data = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert "".join(c["choices"][0]["delta"]["content"] for c in data) == "ab"
    assert lines[-1] == "data: [DONE]"


async def test_failure_after_a_keepalive_is_an_error_frame(start_gateway: Start, fake: FakeInference) -> None:
    fake.script = lambda request: Script(first_delay=0.5, failure=FineryError(Reason.ENGINE_DEAD, "It died."))
    url = await start_gateway(fake, keepalive_seconds=0.1)
    async with httpx.AsyncClient(base_url=url) as http:
        *comments, error = await frames(http)
    assert set(comments) == {": keep-alive"}
    assert json.loads(error[6:])["error"]["code"] == "engine_unavailable"


async def test_the_first_token_is_not_held_back(http: httpx.AsyncClient, fake: FakeInference) -> None:
    fake.script = lambda request: Script(pieces=("a", "b"), delay=60)
    async with http.stream("POST", "/v1/chat/completions", json=BODY) as response:
        pieces: AsyncIterator[str] = response.aiter_text()
        seen = ""
        while '"content":"a"' not in seen:
            seen += await anext(pieces)
    assert fake.finished == 0


@given(st.text())
def test_any_text_survives_and_breaks_no_line(text: str) -> None:
    frame = sse.ChatFrames({"id": "id"}, False).delta(3, text).decode()
    assert frame[:-2].splitlines() == [frame[:-2]]
    choice = json.loads(frame[6:])["choices"][0]
    assert (choice["index"], choice["delta"]["content"]) == (3, text)
