"""What a request says of sampling reaches the real engine, and shows in its answers."""

import dataclasses
import gc
import json
import math
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from jsonschema import validate

from finery_inference.engines.protocol import Delta, EngineConfig, Position, Structured
from finery_inference.engines.token_bytes import TokenBytes
from finery_inference.engines.vllm.environment import scratch_directory, vllm_environment
from finery_inference.engines.vllm.factory import VllmFactory
from finery_inference.engines.vllm.hardware import Hardware, is_cpu_build
from finery_shared.errors import FineryError, Reason
from tests.unit.inference.engine_contract import EngineUnderTest, collect, text_of, tokens_of

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore"),  # vLLM's, torch's and transformers' own warnings are theirs to mend
]

HARDWARE = Hardware(is_cpu_build(), kv_cache_bytes=256 * 2**20)
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "likes": {"enum": ["tea", "coffee"]},
    },
    "required": ["name", "age", "likes"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    before = dict(os.environ)
    state = tmp_path_factory.mktemp("engine")
    directory = scratch_directory(state)
    os.environ.update(vllm_environment(HARDWARE, os.getpid(), state, directory))
    yield directory
    os.environ.clear()
    os.environ.update(before)
    # vLLM leaves a zmq context open; it is to be collected here, where its warnings are ignored.
    gc.collect()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def subject(scratch: Path, smollm2: Path) -> AsyncIterator[EngineUnderTest]:
    factory = VllmFactory(HARDWARE, scratch)
    engine = await factory.start(EngineConfig(smollm2, max_model_len=2048))
    yield EngineUnderTest(engine, engine.shutdown)
    await engine.shutdown()
    await factory.close()


async def said(subject: EngineUnderTest, name: str, **sampling: Any) -> str:
    return text_of(await collect(subject.engine, subject.request(name, **sampling)))


def logprobs_of(deltas: list[Delta]) -> list[Position]:
    return [position for delta in deltas for position in delta.logprobs]


@pytest.mark.parametrize("n", [1, 2])
async def test_a_schema_shapes_every_answer(subject: EngineUnderTest, n: int) -> None:
    shape = Structured("json_schema", json.dumps(PERSON))
    request = subject.request(
        "schema", structured=shape, max_tokens=200, temperature=1.0, seed=5, n=n, ignore_eos=False
    )
    deltas = await collect(subject.engine, request)
    for index in range(n):
        validate(json.loads(text_of(deltas, index)), PERSON)
    assert {delta.finish for delta in deltas if delta.finish} == {"stop"}


async def test_a_model_that_likes_spaces_comes_to_an_end(subject: EngineUnderTest) -> None:
    blank = {
        token: 100.0 for text in (" ", "  ", "\n", "\n\n", "\t") for token in subject.engine.tokenizer.encode(text)
    }
    shape = Structured(
        "json_schema", json.dumps({**PERSON, "properties": {**PERSON["properties"], "name": {"const": "x"}}})
    )
    request = subject.request(
        "spaces", structured=shape, max_tokens=100, temperature=0.0, logit_bias=blank, ignore_eos=False
    )
    deltas = await collect(subject.engine, request)
    assert json.loads(text_of(deltas))["name"] == "x"
    assert deltas[-1].finish == "stop"


async def test_one_of_several_texts_is_chosen(subject: EngineUnderTest) -> None:
    texts = ("größer als 3", "kleiner")
    answer = await said(subject, "choices", structured=Structured("choices", texts), max_tokens=20, ignore_eos=False)
    assert answer in texts


async def test_an_expression_is_matched(subject: EngineUnderTest) -> None:
    shape = Structured("regex", r"[0-9]{3}-[a-f]{2}")
    answer = await said(subject, "regex", structured=shape, max_tokens=20, ignore_eos=False)
    assert (answer[:3].isdigit(), answer[3], len(answer)) == (True, "-", 6)


async def test_any_json_object_is_one(subject: EngineUnderTest) -> None:
    answer = await said(subject, "object", structured=Structured("json_object"), max_tokens=60, ignore_eos=False)
    assert answer.lstrip().startswith("{")


@pytest.mark.parametrize(
    "shape",
    [
        Structured("json_schema", '{"$ref": "#/$defs/nowhere"}'),
        Structured("json_schema", '{"type": "integer", "multipleOf": 7}'),
        Structured("json_schema", '{"type": "string", "pattern": "(("}'),
        Structured("json_schema", '{"items":' * 70 + "{}" + "}" * 70),
        Structured("json_schema", "false"),
        Structured("regex", "(("),
        Structured("regex", "a\x00b"),
        Structured("regex", "(?=a)b"),
        Structured("regex", "((a+)+)+{1000}{1000}$"),
    ],
)
async def test_what_cannot_be_compiled_is_refused_and_does_no_harm(subject: EngineUnderTest, shape: Structured) -> None:
    with pytest.raises(FineryError) as refusal:
        await said(subject, "refused", structured=shape)
    assert refusal.value.reason is Reason.INVALID_ARGUMENT, refusal.value
    assert refusal.value.metadata == {"field": f"structured_output.{shape.kind}"}
    assert "/project/" not in refusal.value.message
    assert subject.engine.alive
    assert len(tokens_of(await collect(subject.engine, subject.request("after")))) == 8


async def test_each_token_has_its_logprob(subject: EngineUnderTest) -> None:
    deltas = await collect(subject.engine, subject.request("logprobs", logprobs=5, max_tokens=12))
    assert len(deltas) > 1
    for delta in deltas:
        assert len(delta.logprobs) == len(delta.token_ids)
    for token, position in zip(tokens_of(deltas), logprobs_of(deltas), strict=True):
        assert position.chosen.token_id == token
        assert position.chosen == position.top[0]  # greedy
        values = [candidate.logprob for candidate in position.top]
        assert (len(values), values) == (5, sorted(values, reverse=True))
        assert sum(map(math.exp, values)) <= 1.001


async def test_logprobs_alone(subject: EngineUnderTest) -> None:
    deltas = await collect(subject.engine, subject.request("chosen", logprobs=0, temperature=1.0, seed=3))
    assert [position.chosen.token_id for position in logprobs_of(deltas)] == tokens_of(deltas)
    assert not any(position.top for position in logprobs_of(deltas))


async def test_tokens_that_are_part_of_a_character_have_their_bytes(subject: EngineUnderTest) -> None:
    shape = Structured("choices", ("小黄 größer",))
    request = subject.request("bytes", structured=shape, logprobs=1, max_tokens=30, ignore_eos=False)
    deltas = await collect(subject.engine, request)
    tokens = TokenBytes(subject.engine.tokenizer.get_vocab())
    said = [tokens.of(token) for token in tokens_of(deltas)]
    assert b"".join(said).decode().removesuffix("<|im_end|>") == "小黄 größer"
    with pytest.raises(UnicodeDecodeError):
        [each.decode() for each in said]
    assert [position.chosen.token_id for position in logprobs_of(deltas)] == tokens_of(deltas)
    # The place at which only one token could stand has no other, though the engine ranks them all.
    assert all(math.isfinite(c.logprob) for position in logprobs_of(deltas) for c in position.top)


async def test_text_that_is_held_back_does_not_hold_its_logprobs_back(subject: EngineUnderTest) -> None:
    stop = ("never said at all by this model",)
    deltas = await collect(subject.engine, subject.request("held", logprobs=1, max_tokens=24, stop=stop))
    assert any(not delta.text for delta in deltas if delta.token_ids)
    assert [position.chosen.token_id for position in logprobs_of(deltas)] == tokens_of(deltas)


async def test_a_bias_forces_a_token(subject: EngineUnderTest) -> None:
    [token] = subject.engine.tokenizer.encode(" tea", add_special_tokens=False)
    assert await said(subject, "bias", logit_bias={token: 100.0}, max_tokens=4) == " tea tea tea tea"
    greedy = tokens_of(await collect(subject.engine, subject.request("plain")))
    without = tokens_of(await collect(subject.engine, subject.request("banned", logit_bias={greedy[0]: -100.0})))
    assert without[0] != greedy[0]


async def test_least_tokens_come_before_an_end(subject: EngineUnderTest) -> None:
    whole = tokens_of(await collect(subject.engine, subject.request("whole", max_tokens=30)))
    deltas = await collect(
        subject.engine, subject.request("least", max_tokens=30, stop_token_ids=(whole[2],), min_tokens=20)
    )
    assert len(tokens_of(deltas)) > 20
    assert len(tokens_of(await collect(subject.engine, subject.request("few", stop_token_ids=(whole[2],))))) <= 3


@pytest.mark.parametrize(
    "penalty", [{"presence_penalty": 2.0}, {"frequency_penalty": 2.0}, {"repetition_penalty": 2.0}]
)
async def test_penalties_make_answers_repeat_less(subject: EngineUnderTest, penalty: dict[str, float]) -> None:
    plain = tokens_of(await collect(subject.engine, subject.request("plain", max_tokens=80)))
    less = tokens_of(await collect(subject.engine, subject.request("less", max_tokens=80, **penalty)))
    assert len(set(less)) > len(set(plain))


async def test_a_repeated_prompt_is_read_from_the_cache(subject: EngineUnderTest) -> None:
    text = "The tide comes in, and the tide goes out. " * 40
    prompt = subject.engine.tokenizer.encode(text, add_special_tokens=False)
    first = await collect(subject.engine, dataclasses.replace(subject.request("cold"), token_ids=prompt))
    again = await collect(subject.engine, dataclasses.replace(subject.request("warm"), token_ids=prompt))
    assert max(delta.cached_tokens for delta in first) == 0
    assert len(prompt) // 2 < max(delta.cached_tokens for delta in again) < len(prompt)
    assert tokens_of(again) == tokens_of(first)


async def test_what_vllm_refuses_is_named(subject: EngineUnderTest) -> None:
    with pytest.raises(FineryError) as refusal:
        await said(subject, "many", logprobs=21)
    assert refusal.value.reason is Reason.INVALID_ARGUMENT
    assert refusal.value.metadata == {"field": "logprobs"}
