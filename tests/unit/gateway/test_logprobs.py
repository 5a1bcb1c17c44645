"""Log-probabilities as the OpenAI client sees them, whole and streamed."""

from typing import Any

import pytest
from openai import AsyncOpenAI

from finery.inference.v1 import inference_pb2 as pb
from tests.fakes.inference_service import FakeInference, Script

QUESTION = [{"role": "user", "content": "hi"}]


def token(token_id: int, said: bytes, logprob: float) -> pb.TokenLogprob:
    return pb.TokenLogprob(token_id=token_id, token=said, logprob=logprob)


A, O_FIRST, O_LAST = token(0, b" a", -0.5), token(1, b"\xc3", -0.25), token(2, b"\xb6", -0.125)
B = token(3, b"b", -9999.0)
PLACES = [
    [pb.PositionLogprobs(chosen=A, top=[A, B])],
    [pb.PositionLogprobs(chosen=O_FIRST, top=[A, B])],
    [pb.PositionLogprobs(chosen=O_LAST), pb.PositionLogprobs(chosen=B)],
]
SCRIPT = Script(pieces=(" a", "", "öb"), logprobs=PLACES)


def as_told(each: Any) -> tuple[str, float, list[int], list[tuple[str, float]]]:
    return each.token, each.logprob, each.bytes, [(other.token, other.logprob) for other in each.top_logprobs]


TOLD = [
    (" a", -0.5, [32, 97], [(" a", -0.5), ("b", -9999.0)]),
    ("\\xc3", -0.25, [0xC3], [(" a", -0.5), ("b", -9999.0)]),
    ("\\xb6", -0.125, [0xB6], []),
    ("b", -9999.0, [98], []),
]


async def test_whole_chat(client: AsyncOpenAI, fake: FakeInference) -> None:
    fake.script = lambda request: SCRIPT
    answer = await client.chat.completions.create(model="toy", messages=QUESTION, n=2, logprobs=True, top_logprobs=2)
    for choice in answer.choices:
        assert choice.message.content == " aöb"
        assert choice.logprobs is not None
        assert [as_told(each) for each in choice.logprobs.content or ()] == TOLD
        assert choice.logprobs.refusal is None
    assert fake.requests[0].sampling.logprobs == 2


async def test_streamed_chat(client: AsyncOpenAI, fake: FakeInference) -> None:
    fake.script = lambda request: SCRIPT
    stream = await client.chat.completions.create(
        model="toy", messages=QUESTION, stream=True, logprobs=True, top_logprobs=2
    )
    choices = [chunk.choices[0] async for chunk in stream]
    assert [choice.delta.content for choice in choices] == ["", " a", "", "öb", ""]
    told = [[as_told(each) for each in c.logprobs.content or ()] if c.logprobs else None for c in choices]
    assert told == [None, TOLD[:1], TOLD[1:2], TOLD[2:], None]


@pytest.mark.parametrize(
    ("asked", "sent"), [({}, None), ({"logprobs": False}, None), ({"logprobs": True}, 0), ({"logprobs": None}, None)]
)
async def test_what_is_asked_for_of_a_chat(
    client: AsyncOpenAI, fake: FakeInference, asked: dict[str, Any], sent: int | None
) -> None:
    answer = await client.chat.completions.create(model="toy", messages=QUESTION, extra_body=asked)
    sampling = fake.requests[0].sampling
    assert (sampling.logprobs if sampling.HasField("logprobs") else None) == sent
    assert answer.choices[0].logprobs is None


NAMES = [" a", "bytes:\\xc3", "bytes:\\xb6", "b"]


async def test_whole_text(client: AsyncOpenAI, fake: FakeInference) -> None:
    fake.script = lambda request: SCRIPT
    answer = await client.completions.create(model="toy", prompt=["x", "y"], logprobs=2)
    for choice in answer.choices:
        told = choice.logprobs
        assert told is not None
        assert told.tokens == NAMES
        assert told.token_logprobs == [-0.5, -0.25, -0.125, -9999.0]
        assert told.text_offset == [0, 2, 2, 3]
        assert told.top_logprobs == [
            {" a": -0.5, "b": -9999.0},
            {" a": -0.5, "b": -9999.0, "bytes:\\xc3": -0.25},
            {"bytes:\\xb6": -0.125},
            {"b": -9999.0},
        ]
    assert [request.sampling.logprobs for request in fake.requests] == [2, 2]


async def test_streamed_text(client: AsyncOpenAI, fake: FakeInference) -> None:
    fake.script = lambda request: SCRIPT
    stream = await client.completions.create(model="toy", prompt="x", n=2, stream=True, logprobs=0)
    choices = [chunk.choices[0] async for chunk in stream]
    for index in range(2):
        mine = [choice for choice in choices if choice.index == index]
        assert "".join(choice.text for choice in mine) == " aöb"
        told = [choice.logprobs for choice in mine]
        assert [each.tokens for each in told if each] == [NAMES[:1], NAMES[1:2], NAMES[2:]]
        assert [each.text_offset for each in told if each] == [[0], [2], [2, 3]]
        assert told[-1] is None
    assert fake.requests[0].sampling.HasField("logprobs")
    assert fake.requests[0].sampling.logprobs == 0


async def test_a_token_breaks_no_line(url: str, client: AsyncOpenAI, fake: FakeInference) -> None:
    line = token(9, "\u2028\x85".encode(), -1.0)
    fake.script = lambda request: Script(pieces=("x",), logprobs=[[pb.PositionLogprobs(chosen=line)]])
    response = await client.chat.completions.with_raw_response.create(
        model="toy", messages=QUESTION, stream=True, logprobs=True
    )
    text = (await response.http_response.aread()).decode()
    assert text.splitlines() == text.split("\n")[:-1]
