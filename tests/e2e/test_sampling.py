"""What the OpenAI client may ask of sampling, and of the shape of an answer, from the deployed model."""

import json
import math
from typing import Any, Literal

import httpx
import openai
import pytest
from pydantic import BaseModel

from tests.e2e.conftest import MODEL, Stack

QUESTION: Any = [{"role": "user", "content": "Tell me about the sea."}]


class Person(BaseModel):
    name: str
    likes: Literal["tea", "coffee"]


def tokens_of(stack: Stack, text: str) -> list[int]:
    url = stack.base_url.removesuffix("/v1")
    answer = httpx.post(f"{url}/tokenize", json={"model": MODEL, "prompt": text}, timeout=30)
    return list(answer.json()["tokens"])


def test_an_answer_follows_a_schema(stack: Stack) -> None:
    client = stack.client()
    parsed = client.chat.completions.parse(
        model=MODEL, messages=QUESTION, response_format=Person, temperature=0.5, seed=1, max_tokens=300
    )
    assert isinstance(parsed.choices[0].message.parsed, Person)
    with client.chat.completions.stream(
        model=MODEL, messages=QUESTION, response_format=Person, temperature=0.5, seed=1, max_tokens=300
    ) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == parsed.choices[0].message.parsed


def test_an_answer_is_a_json_object_or_one_of_several_texts(stack: Stack) -> None:
    client = stack.client()
    any_object = client.chat.completions.create(
        model=MODEL, messages=QUESTION, response_format={"type": "json_object"}, temperature=0, max_tokens=200
    )
    content = any_object.choices[0].message.content or ""
    assert content.lstrip().startswith("{")
    if any_object.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(content), dict)
    chosen = client.chat.completions.create(
        model=MODEL, messages=QUESTION, extra_body={"structured_outputs": {"choice": ["wet", "dry"]}}
    )
    assert chosen.choices[0].message.content in ("wet", "dry")


@pytest.mark.parametrize(
    "schema", [{"type": "objekt"}, {"$ref": "#/$defs/nowhere"}, {"multipleOf": 3, "type": "integer"}]
)
def test_a_schema_that_cannot_be_followed_is_named(stack: Stack, schema: dict[str, Any]) -> None:
    client = stack.client()
    shape: Any = {"type": "json_schema", "json_schema": {"name": "wrong", "schema": schema}}
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model=MODEL, messages=QUESTION, response_format=shape)
    assert (refused.value.param, refused.value.code) == ("response_format.json_schema.schema", "invalid_value")
    assert client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=2).choices


def test_logprobs_whole_and_streamed(stack: Stack) -> None:
    client = stack.client()
    asked: dict[str, Any] = {"logprobs": True, "top_logprobs": 4, "temperature": 0, "max_tokens": 12}
    whole = client.chat.completions.create(model=MODEL, messages=QUESTION, **asked).choices[0]
    assert whole.logprobs is not None
    told = whole.logprobs.content or []
    said = b"".join(bytes(each.bytes or ()) for each in told)
    assert said.decode().removesuffix("<|im_end|>") == whole.message.content
    for each in told:
        assert each.logprob == each.top_logprobs[0].logprob
        assert sum(math.exp(other.logprob) for other in each.top_logprobs) <= 1.001
    parts = [
        part.choices[0] for part in client.chat.completions.create(model=MODEL, messages=QUESTION, stream=True, **asked)
    ]
    streamed = [each.token for part in parts if part.logprobs for each in part.logprobs.content or ()]
    assert streamed == [each.token for each in told]


def test_logprobs_of_a_plain_completion(stack: Stack) -> None:
    choice = (
        stack.client()
        .completions.create(model=MODEL, prompt="The sea is", logprobs=2, temperature=0, max_tokens=8)
        .choices[0]
    )
    told = choice.logprobs
    assert told is not None
    assert told.tokens is not None
    assert told.text_offset is not None
    places = list(zip(told.tokens, told.text_offset, strict=True))
    # The end of the turn is a token without text.
    of_text = places[:-1] if choice.finish_reason == "stop" else places
    assert of_text
    assert all(choice.text[at:].startswith(token) for token, at in of_text)
    assert told.top_logprobs is not None
    assert all(2 <= len(top) <= 3 for top in told.top_logprobs)


def test_a_bias_forces_a_token_and_least_tokens_come_before_a_stop(stack: Stack) -> None:
    client = stack.client()
    [tea] = tokens_of(stack, " tea")
    bias: Any = {str(tea): 100}
    forced = client.chat.completions.create(model=MODEL, messages=QUESTION, logit_bias=bias, max_tokens=3)
    assert forced.choices[0].message.content == " tea tea tea"
    stopped = client.chat.completions.create(
        model=MODEL, messages=QUESTION, logit_bias=bias, max_tokens=9, stop=" tea", extra_body={"min_tokens": 4}
    )
    assert (stopped.choices[0].finish_reason, stopped.usage and stopped.usage.completion_tokens) == ("stop", 5)
    with pytest.raises(openai.BadRequestError, match="beyond the model's") as refused:
        client.chat.completions.create(model=MODEL, messages=QUESTION, logit_bias={"4000000": 1})
    assert refused.value.param == "logit_bias"


def test_a_seed_makes_chance_repeat_and_greedy_answers_are_the_same(stack: Stack) -> None:
    client = stack.client()
    asked: dict[str, Any] = {"model": MODEL, "messages": QUESTION, "temperature": 1.5, "max_tokens": 16}
    first, again, other = [
        client.chat.completions.create(**asked, seed=seed).choices[0].message.content for seed in (7, 7, 8)
    ]
    assert first == again != other
    greedy = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0, n=3, max_tokens=8)
    assert len({choice.message.content for choice in greedy.choices}) == 1
    assert [choice.index for choice in greedy.choices] == [0, 1, 2]
    assert greedy.usage is not None
    assert greedy.usage.completion_tokens == 24


def test_tokens_from_the_cache_are_told(stack: Stack) -> None:
    client = stack.client()
    text = "The tide comes in, and the tide goes out. " * 30
    messages: Any = [{"role": "user", "content": text}]
    answers = [client.chat.completions.create(model=MODEL, messages=messages, max_tokens=2) for _ in range(4)]
    cached = [a.usage.prompt_tokens_details.cached_tokens for a in answers if a.usage and a.usage.prompt_tokens_details]
    assert max(cached[1:]) > 100
