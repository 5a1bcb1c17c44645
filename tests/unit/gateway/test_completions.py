"""Plain completions as the OpenAI client sees them."""

import asyncio
import json
from collections.abc import AsyncGenerator

import httpx
import pytest
from openai import APIError, AsyncOpenAI, BadRequestError

from finery.inference.v1 import inference_pb2 as pb
from finery_gateway.routing.several import Several
from finery_shared.errors import FineryError, Reason
from tests.fakes.inference_service import FakeInference, Script
from tests.unit.gateway.waiting import until


def by_prompt(request: pb.GenerateRequest) -> Script:
    """An answer that says what was asked."""
    asked = request.text.text or "+".join(map(str, request.token_ids.token_ids))
    usage = pb.Usage(prompt_tokens=len(asked), completion_tokens=2, cached_tokens=1)
    return Script(pieces=(f"<{asked}>", "!"), usage=usage, finish=pb.FINISH_REASON_LENGTH)


async def test_whole_text(client: AsyncOpenAI, fake: FakeInference) -> None:
    fake.script = by_prompt
    answer = await client.completions.create(model="toy", prompt="Once upon")
    assert (answer.object, answer.model) == ("text_completion", "toy")
    assert answer.id.startswith("cmpl-")
    assert answer.system_fingerprint.startswith("fp_")
    [choice] = answer.choices
    assert (choice.index, choice.text, choice.finish_reason, choice.logprobs) == (0, "<Once upon>!", "length", None)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (9, 2, 11)
    [request] = fake.requests
    assert request.WhichOneof("prompt") == "text"
    assert request.sampling.max_tokens == 16  # OpenAI's default


async def test_stream(client: AsyncOpenAI, fake: FakeInference) -> None:
    fake.script = by_prompt
    stream = await client.completions.create(
        model="toy", prompt="a", stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = [chunk async for chunk in stream]
    assert [(c.choices[0].text, c.choices[0].finish_reason) for c in chunks] == [
        ("<a>", None), ("!", None), ("", "length"),
    ]  # fmt: skip
    assert all(c.object == "text_completion" and c.usage is None for c in chunks)
    assert (last.choices, last.usage.total_tokens) == ([], 3)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("prompt", "asked"),
    [
        ([5, 6, 7], ["5+6+7"]),
        ([[5, 6], [7]], ["5+6", "7"]),
        (["first", "second", "third"], ["first", "second", "third"]),
    ],
)
async def test_several_prompts_and_answers(
    client: AsyncOpenAI, fake: FakeInference, prompt: list[object], asked: list[str], stream: bool
) -> None:
    fake.script = by_prompt
    texts, ends = [""] * 2 * len(asked), {}
    if stream:
        async for chunk in await client.completions.create(model="toy", prompt=prompt, n=2, stream=True):
            [choice] = chunk.choices
            texts[choice.index] += choice.text
            if choice.finish_reason:
                ends[choice.index] = choice.finish_reason
    else:
        answer = await client.completions.create(model="toy", prompt=prompt, n=2)
        assert [choice.index for choice in answer.choices] == list(range(len(texts)))
        for choice in answer.choices:
            texts[choice.index], ends[choice.index] = choice.text, choice.finish_reason
        assert answer.usage.prompt_tokens == sum(map(len, asked))
        assert answer.usage.prompt_tokens_details.cached_tokens == len(asked)
    assert texts == [f"<{one}>!" for one in asked for _ in range(2)]
    assert ends == dict.fromkeys(range(len(texts)), "length")


async def test_what_is_asked_for_arrives(client: AsyncOpenAI, fake: FakeInference) -> None:
    await client.completions.create(
        model="toy", prompt="x", max_tokens=7, temperature=0.5, top_p=0.9, stop=["a", "b"], seed=3, n=1,
        presence_penalty=0.1, frequency_penalty=0.2, user="me", extra_body={"top_k": 4, "ignore_eos": True},
    )  # fmt: skip
    sampling = fake.requests[0].sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p, list(sampling.stop)) == (7, 0.5, 0.9, ["a", "b"])
    assert (sampling.seed, sampling.n, sampling.top_k, sampling.ignore_eos) == (3, 1, 4, True)


async def test_null_asks_for_all_that_is_left(http: httpx.AsyncClient, fake: FakeInference) -> None:
    response = await http.post("/v1/completions", json={"model": "toy", "prompt": "x", "max_tokens": None})
    assert response.status_code == 200
    assert not fake.requests[0].sampling.HasField("max_tokens")


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({}, "prompt", "missing_required_parameter"),
        ({"prompt": 5}, "prompt", "invalid_type"),
        ({"prompt": []}, "prompt", "invalid_type"),
        ({"prompt": [[]]}, "prompt[0]", "invalid_value"),
        ({"prompt": ["a", 5]}, "prompt[1]", "invalid_type"),
        ({"prompt": [-1]}, "prompt[0]", "invalid_value"),
        ({"prompt": ["x"] * 129}, "prompt", "invalid_value"),
        ({"prompt": "x", "echo": True}, "echo", "unsupported_parameter"),
        ({"prompt": "x", "logprobs": 6}, "logprobs", "invalid_value"),
        ({"prompt": "x", "logprobs": True}, "logprobs", "invalid_type"),
        ({"prompt": "x", "top_logprobs": 2}, "top_logprobs", "unknown_parameter"),
        ({"prompt": "x", "suffix": "y"}, "suffix", "unsupported_parameter"),
        ({"prompt": "x", "best_of": 3}, "best_of", "unsupported_parameter"),
        ({"prompt": "x", "messages": []}, "messages", "unknown_parameter"),
        ({"prompt": "x", "stream_options": {}}, "stream_options", "invalid_value"),
    ],
)
async def test_bad_request(http: httpx.AsyncClient, body: dict[str, object], param: str, code: str) -> None:
    response = await http.post("/v1/completions", json={"model": "toy"} | body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["code"]) == (param, code)


async def test_one_prompt_that_fails_ends_all(client: AsyncOpenAI, fake: FakeInference) -> None:
    full = FineryError(Reason.CONTEXT_LENGTH_EXCEEDED, "too long", field="prompt")
    fake.script = lambda request: Script(failure=full) if request.text.text == "b" else Script(delay=60)
    with pytest.raises(BadRequestError, match="too long"):
        await client.completions.create(model="toy", prompt=["a", "b"])
    await until(lambda: fake.running == 0)


async def test_a_stream_that_fails_does_not_end_like_a_finished_one(
    http: httpx.AsyncClient, client: AsyncOpenAI, fake: FakeInference
) -> None:
    dead = FineryError(Reason.ENGINE_DEAD, "The engine has died.")
    fake.script = lambda request: Script(failure=dead, fails_after=1)
    response = await http.post("/v1/completions", json={"model": "toy", "prompt": ["a", "b"], "stream": True})
    *_, last = response.text.strip().split("\n\n")
    assert json.loads(last.removeprefix("data: "))["error"]["message"] == "The engine has died."
    with pytest.raises(APIError):
        [chunk async for chunk in await client.completions.create(model="toy", prompt="a", stream=True)]


async def test_a_client_that_leaves_cancels_all(client: AsyncOpenAI, fake: FakeInference) -> None:
    fake.script = lambda request: Script(delay=60)
    asking = asyncio.create_task(client.completions.create(model="toy", prompt=["a", "b", "c"]))
    await until(lambda: fake.running == 3)
    asking.cancel()
    await until(lambda: fake.cancelled == 3)


async def test_a_bug_in_one_of_several_is_raised_where_they_are_read() -> None:
    class Broken:
        async def events(self) -> AsyncGenerator[pb.GenerateResponse, None]:
            yield pb.GenerateResponse(chunk=pb.GenerateChunk(text="a"))
            raise ZeroDivisionError

    several = Several([Broken(), Broken()], 1, streamed=True)  # type: ignore[list-item]
    with pytest.raises(ZeroDivisionError):
        async with asyncio.timeout(10):
            [event async for event in several.events()]
