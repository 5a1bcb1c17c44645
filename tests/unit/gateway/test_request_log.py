"""Request ids, in and out, and the one log line of a request."""

import re

import httpx
import pytest
from structlog.testing import capture_logs

from tests.fakes.inference_service import FakeInference, Script
from tests.unit.gateway.waiting import until

BODY = {"model": "toy", "messages": [{"role": "user", "content": "hi"}]}


async def test_given_id_goes_through(http: httpx.AsyncClient, fake: FakeInference) -> None:
    answer = await http.post("/v1/chat/completions", json=BODY, headers={"x-request-id": "req_1.a:B-2"})
    assert answer.headers["x-request-id"] == "req_1.a:B-2"
    assert fake.request_ids == ["req_1.a:B-2"]


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "a\tb", "é"])
async def test_bad_id_is_replaced(http: httpx.AsyncClient, fake: FakeInference, given: str) -> None:
    answer = await http.post("/v1/chat/completions", json=BODY, headers={"x-request-id": given.encode()})
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])
    assert fake.request_ids == [answer.headers["x-request-id"]]


async def test_every_answer_has_one(http: httpx.AsyncClient) -> None:
    for path in ("/health", "/ready", "/v1/models", "/nonsense", "/v1/models/absent"):
        assert re.fullmatch("[0-9a-f]{32}", (await http.get(path)).headers["x-request-id"])


async def logged(http: httpx.AsyncClient, stream: bool) -> dict[str, object]:
    """The log line of a chat completion; it is written after the client has its answer."""

    def found() -> list[dict[str, object]]:
        return [entry for entry in lines if entry["event"] == "request"]

    with capture_logs() as lines:
        await http.post("/v1/chat/completions", json=BODY | {"stream": stream})
        await until(lambda: len(found()) > 0)
    [line] = found()
    return line


@pytest.mark.parametrize("stream", [False, True])
async def test_one_line_a_request(http: httpx.AsyncClient, fake: FakeInference, stream: bool) -> None:
    line = await logged(http, stream)
    assert line["seconds"] >= line.get("first_seconds", 0) >= 0
    assert ("first_seconds" in line) == stream
    shown = {k: v for k, v in line.items() if k not in ("seconds", "first_seconds", "part", "log_level", "event")}
    assert shown == {
        "method": "POST",
        "path": "/v1/chat/completions",
        "status": 200,
        "model": "toy",
        "stream": stream,
        "backend": fake.address,
        "prompt_tokens": 7,
        "completion_tokens": 3,
    }


async def test_failure_in_mid_stream_is_logged(http: httpx.AsyncClient, fake: FakeInference) -> None:
    fake.script = lambda request: Script(breaks_off=True)
    line = await logged(http, True)
    assert (line["status"], line["reason"]) == (200, "ENGINE_FAILED")
