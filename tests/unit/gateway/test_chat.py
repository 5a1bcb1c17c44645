"""Chat completions as the OpenAI client sees them."""

import asyncio

import pytest
from openai import APIError, AsyncOpenAI, OpenAI

from finery.inference.v1 import inference_pb2 as pb
from finery_shared.errors import FineryError, Reason
from tests.fakes.inference_service import FakeInference, Script

QUESTION = [{"role": "user", "content": "Who are you?"}]


async def test_whole_answer(client: AsyncOpenAI, fake: FakeInference) -> None:
    fake.script = lambda request: Script(usage=pb.Usage(prompt_tokens=11, completion_tokens=3, cached_tokens=8))
    answer = await client.chat.completions.create(model="toy", messages=QUESTION)
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert answer.model == "toy"
    assert answer.system_fingerprint.startswith("fp_")
    [choice] = answer.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", "Hello, world", "stop")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (11, 3, 14)
    assert answer.usage.prompt_tokens_details.cached_tokens == 8


async def test_stream_says_role_once_and_content_always(client: AsyncOpenAI) -> None:
    chunks = [c async for c in await client.chat.completions.create(model="toy", messages=QUESTION, stream=True)]
    assert [c.choices[0].delta.role for c in chunks] == ["assistant", None, None, None, None]
    assert [c.choices[0].delta.content for c in chunks] == ["", "Hello", ", ", "world", ""]
    assert [c.choices[0].finish_reason for c in chunks] == [None, None, None, None, "stop"]
    assert len({c.id for c in chunks}) == 1
    assert all(c.object == "chat.completion.chunk" and c.usage is None for c in chunks)


async def test_stream_with_usage(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="toy", messages=QUESTION, stream=True, stream_options={"include_usage": True}
    )
    *others, last = [c async for c in stream]
    assert last.choices == []
    assert last.usage.total_tokens == 10
    assert all(c.usage is None and "usage" in c.model_fields_set for c in others)


@pytest.mark.parametrize("stream", [False, True])
async def test_several_answers(client: AsyncOpenAI, fake: FakeInference, stream: bool) -> None:
    fake.script = lambda request: Script(finish=pb.FINISH_REASON_LENGTH)
    texts, ends = ["", ""], {}
    if stream:
        async for chunk in await client.chat.completions.create(model="toy", messages=QUESTION, n=2, stream=True):
            [choice] = chunk.choices
            texts[choice.index] += choice.delta.content
            if choice.finish_reason:
                ends[choice.index] = choice.finish_reason
    else:
        answer = await client.chat.completions.create(model="toy", messages=QUESTION, n=2)
        for choice in answer.choices:
            texts[choice.index], ends[choice.index] = choice.message.content, choice.finish_reason
    assert texts == ["Hello, world"] * 2
    assert ends == {0: "length", 1: "length"}


@pytest.mark.parametrize("stream", [False, True])
async def test_empty_answer(client: AsyncOpenAI, fake: FakeInference, stream: bool) -> None:
    fake.script = lambda request: Script(pieces=())
    if stream:
        chunks = [c async for c in await client.chat.completions.create(model="toy", messages=QUESTION, stream=True)]
        assert [(c.choices[0].delta.role, c.choices[0].delta.content) for c in chunks] == [
            ("assistant", ""),
            (None, ""),
        ]
    else:
        answer = await client.chat.completions.create(model="toy", messages=QUESTION)
        assert answer.choices[0].message.content == ""


async def test_every_parameter_arrives(client: AsyncOpenAI, fake: FakeInference) -> None:
    await client.chat.completions.create(
        model="toy",
        messages=[
            {"role": "developer", "content": "Be short."},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": "c", "refusal": None, "tool_calls": None},
            {"role": "tool", "content": "d", "tool_call_id": "1"},
        ],
        max_completion_tokens=5,
        temperature=0,
        top_p=0.5,
        n=1,
        stop="END",
        seed=42,
        presence_penalty=-1,
        frequency_penalty=0.25,
        logit_bias={"5": -100, "70": 0.5},
        user="someone",
        metadata={"a": "b"},
        store=False,
        service_tier="auto",
        extra_body={
            "top_k": -1,
            "min_p": 0.125,
            "repetition_penalty": 1.5,
            "stop_token_ids": [3],
            "ignore_eos": True,
            "min_tokens": 2,
            "tools": [],
            "logprobs": None,
            "response_format": {"type": "text"},
        },
    )
    assert fake.requests == [
        pb.GenerateRequest(
            model="toy",
            chat=pb.ChatPrompt(
                messages=[
                    pb.ChatMessage(role=pb.CHAT_ROLE_SYSTEM, content="Be short."),
                    pb.ChatMessage(role=pb.CHAT_ROLE_USER, content="a\nb"),
                    pb.ChatMessage(role=pb.CHAT_ROLE_ASSISTANT, content="c"),
                    pb.ChatMessage(role=pb.CHAT_ROLE_TOOL, content="d", tool_call_id="1"),
                ]
            ),
            sampling=pb.SamplingParams(
                max_tokens=5,
                temperature=0,
                top_p=0.5,
                n=1,
                stop=["END"],
                seed=42,
                presence_penalty=-1,
                frequency_penalty=0.25,
                top_k=0,
                min_p=0.125,
                repetition_penalty=1.5,
                stop_token_ids=[3],
                ignore_eos=True,
                min_tokens=2,
                logit_bias={5: -100, 70: 0.5},
            ),
        )
    ]


async def test_what_is_left_out_stays_unset(client: AsyncOpenAI, fake: FakeInference) -> None:
    await client.chat.completions.create(model="toy", messages=QUESTION, temperature=None)
    assert fake.requests[0].sampling.ListFields() == []


async def test_failure_in_mid_stream_is_an_error_for_the_client(client: AsyncOpenAI, fake: FakeInference) -> None:
    failure = FineryError(Reason.ENGINE_DEAD, "The engine died.")
    fake.script = lambda request: Script(failure=failure, fails_after=2)
    text = ""
    with pytest.raises(APIError, match=r"The engine died\.") as caught:
        async for chunk in await client.chat.completions.create(model="toy", messages=QUESTION, stream=True):
            text += chunk.choices[0].delta.content
    assert text == "Hello, "
    assert caught.value.code == "engine_unavailable"


async def test_the_guides_client(url: str, fake: FakeInference) -> None:
    """The sequence of the guide's OpenAI client, with the synchronous client."""
    answers = await asyncio.to_thread(_talk_as_the_guide_does, f"{url}/v1")
    assert answers == ["Hello, world"] * 5
    assert [len(r.chat.messages) for r in fake.requests] == [1, 3, 5, 7, 9]
    assert fake.requests[-1].sampling.seed == 42


def _talk_as_the_guide_does(base_url: str) -> list[str]:
    answers = []
    with OpenAI(api_key="EMPTY", base_url=base_url) as client:
        model_type = client.models.list().data[0].id
        messages: list[dict[str, str]] = []
        for query in ["你是谁？", "what's your name?", "你是谁研发的？"]:
            messages.append({"role": "user", "content": query})
            resp = client.chat.completions.create(model=model_type, messages=messages, seed=42)
            response = resp.choices[0].message.content
            messages.append({"role": "assistant", "content": response})
            answers.append(response)
        for query in ["78654+657=?", "晚上睡不着觉怎么办"]:
            messages.append({"role": "user", "content": query})
            stream_resp = client.chat.completions.create(model=model_type, messages=messages, stream=True, seed=42)
            response = ""
            for chunk in stream_resp:
                response += chunk.choices[0].delta.content
            messages.append({"role": "assistant", "content": response})
            answers.append(response)
    return answers
