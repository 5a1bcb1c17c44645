"""What a request says of sampling reaches the real engine, and shows in its answers."""

import gc
import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from jsonschema import validate

from finery_inference.engines.protocol import EngineConfig, Structured
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
