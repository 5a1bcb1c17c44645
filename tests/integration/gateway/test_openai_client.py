"""The openai client with all it can do, against a gateway process."""

import asyncio
import time
from collections.abc import Iterator

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.integration.gateway.processes import Process, Processes

KEY = "sk-of-the-test"
MESSAGES = [{"role": "user", "content": "hi"}]
ANSWER = "piece0 piece1 piece2 "


def base_url(gateway: Process) -> str:
    return f"http://{gateway.address()}/v1"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    processes = Processes(tmp_path_factory.mktemp("gateway"))
    yield processes.gateway(processes.inference(), FINERY_GATEWAY_API_KEYS=f"another,{KEY}")
    processes.stop()


@pytest.fixture
def client(gateway: Process) -> Iterator[OpenAI]:
    with OpenAI(api_key=KEY, base_url=base_url(gateway), max_retries=0, timeout=30) as client:
        yield client


def test_whole_and_streamed(client: OpenAI) -> None:
    whole = client.chat.completions.create(model="toy", messages=MESSAGES)
    assert whole.choices[0].message.content == ANSWER
    assert whole._request_id
    chunks = list(client.chat.completions.create(model="toy", messages=MESSAGES, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == ANSWER
    assert len({c.id for c in chunks}) == 1


def test_stream_helper_builds_the_answer_up(client: OpenAI) -> None:
    usage = {"include_usage": True}
    with client.chat.completions.stream(model="toy", messages=MESSAGES, stream_options=usage) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= set(kinds)
    assert final.choices[0].message.content == ANSWER
    assert final.choices[0].finish_reason == "stop"
    assert final.usage is not None and final.usage.completion_tokens == 3


def test_stream_that_is_left_early_does_no_harm(client: OpenAI) -> None:
    for _ in range(5):
        with client.chat.completions.create(model="toy", messages=MESSAGES, stream=True) as stream:
            next(stream)
    assert client.chat.completions.create(model="toy", messages=MESSAGES).choices[0].message.content == ANSWER


def test_raw_response(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="toy", messages=MESSAGES, extra_headers={"X-Request-Id": "mine-1"}
    )
    assert (raw.status_code, raw.headers["x-request-id"], raw.retries_taken) == (200, "mine-1", 0)
    assert raw.parse().choices[0].message.content == ANSWER


def test_streaming_response(client: OpenAI) -> None:
    with client.chat.completions.with_streaming_response.create(
        model="toy", messages=MESSAGES, stream=True
    ) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"


def test_completions(client: OpenAI) -> None:
    whole = client.completions.create(model="toy", prompt=["Once", "Twice"])
    assert [(c.index, c.text) for c in whole.choices] == [(0, ANSWER), (1, ANSWER)]
    pieces = client.completions.create(model="toy", prompt="Once", stream=True)
    assert "".join(c.choices[0].text for c in pieces) == ANSWER


def test_models(client: OpenAI) -> None:
    assert [m.id for m in client.models.list()] == ["toy"]
    assert client.models.retrieve("toy").owned_by == "finery"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("absent")


def test_keys(client: OpenAI) -> None:
    for key in ("wrong", KEY[:-1], f"{KEY}x"):
        with pytest.raises(openai.AuthenticationError) as caught:
            client.with_options(api_key=key).models.list()
        assert caught.value.code == "invalid_api_key"
    assert client.with_options(api_key="another").models.list().data


async def test_async_many_at_once(gateway: Process) -> None:
    async with AsyncOpenAI(api_key=KEY, base_url=base_url(gateway), max_retries=0, timeout=60) as client:

        async def streamed() -> str:
            async with client.chat.completions.stream(model="toy", messages=MESSAGES) as stream:
                return (await stream.get_final_completion()).choices[0].message.content or ""

        async def whole() -> str:
            answer = await client.chat.completions.create(model="toy", messages=MESSAGES)
            return answer.choices[0].message.content or ""

        answers = await asyncio.gather(*(streamed() if i % 2 else whole() for i in range(64)))
        assert set(answers) == {ANSWER}
        assert [m.id async for m in client.models.list()] == ["toy"]


@pytest.mark.parametrize(
    ("reason", "error", "retry_after"),
    [("QUEUE_FULL", openai.RateLimitError, 1), ("ENGINE_DEAD", openai.InternalServerError, 2)],
)
def test_retries_wait_as_long_as_they_are_told(
    processes: Processes, reason: str, error: type[openai.APIStatusError], retry_after: int
) -> None:
    gateway = processes.gateway(processes.inference("--failures", "2", "--reason", reason))
    with OpenAI(api_key="EMPTY", base_url=base_url(gateway), max_retries=0, timeout=30) as client:
        with pytest.raises(error) as caught:
            client.chat.completions.create(model="toy", messages=MESSAGES)
        assert caught.value.response.headers["retry-after"] == str(retry_after)
        begun = time.monotonic()
        raw = client.with_options(max_retries=2).chat.completions.with_raw_response.create(
            model="toy", messages=MESSAGES
        )
        assert (raw.retries_taken, raw.parse().choices[0].message.content) == (1, ANSWER)
        assert time.monotonic() - begun >= retry_after


def test_what_is_wrong_is_not_retried(gateway: Process) -> None:
    with OpenAI(api_key=KEY, base_url=base_url(gateway), max_retries=5, timeout=30) as client:
        for bad in ({"temperature": 9}, {"model": "absent"}, {"messages": []}):
            with pytest.raises(openai.APIStatusError) as caught:
                client.chat.completions.create(**({"model": "toy", "messages": MESSAGES} | bad))  # type: ignore[call-overload]
            assert caught.value.response.request.headers["x-stainless-retry-count"] == "0"


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_has_no_time_leaves(processes: Processes, stream: bool) -> None:
    gateway = processes.gateway(processes.inference("--pieces", "2", "--delay", "20"))
    with (
        OpenAI(api_key="EMPTY", base_url=base_url(gateway), max_retries=0, timeout=1) as client,
        pytest.raises(openai.APITimeoutError),
    ):
        answer = client.chat.completions.create(model="toy", messages=MESSAGES, stream=stream)
        list(answer)
