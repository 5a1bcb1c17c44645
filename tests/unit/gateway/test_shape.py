"""``response_format`` and ``structured_outputs``: what arrives, and what is refused by name."""

import json
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, BadRequestError
from pydantic import BaseModel

from finery.inference.v1 import inference_pb2 as pb
from finery_shared.errors import FineryError, Reason
from tests.fakes.inference_service import FakeInference, Script

QUESTION = [{"role": "user", "content": "hi"}]
CHAT = {"model": "toy", "messages": QUESTION}
SCHEMA = {"type": "object", "properties": {"ä": {"type": "string"}}}


def named(**more: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, **more}}


ASKED = [
    ({"response_format": {"type": "text"}}, None),
    ({"response_format": {"type": "text"}, "structured_outputs": {"regex": "a"}}, pb.StructuredOutput(regex="a")),
    ({"response_format": {"type": "json_object"}}, pb.StructuredOutput(json_object=True)),
    ({"structured_outputs": {"json_object": True}}, pb.StructuredOutput(json_object=True)),
    ({"structured_outputs": {"json": '{"a'}}, pb.StructuredOutput(json_schema='{"a')),
    ({"structured_outputs": {"regex": "a+"}}, pb.StructuredOutput(regex="a+")),
    ({"structured_outputs": {"choice": ["a", "b"]}}, pb.StructuredOutput(choices=pb.Choices(texts=["a", "b"]))),
]


@pytest.mark.parametrize(("asked", "sent"), ASKED)
@pytest.mark.parametrize("path", ["chat/completions", "completions"])
async def test_what_is_asked_for_arrives(
    http: httpx.AsyncClient, fake: FakeInference, asked: dict[str, Any], sent: pb.StructuredOutput | None, path: str
) -> None:
    body = CHAT if path.startswith("chat") else {"model": "toy", "prompt": "x"}
    response = await http.post(f"/v1/{path}", json=body | asked)
    assert response.status_code == 200
    sampling = fake.requests[0].sampling
    assert (sampling.structured_output if sampling.HasField("structured_output") else None) == sent


@pytest.mark.parametrize(
    "asked",
    [{"response_format": named(strict=True, description="d")}, {"structured_outputs": {"json": SCHEMA}}],
)
async def test_a_schema_arrives_as_text(http: httpx.AsyncClient, fake: FakeInference, asked: dict[str, Any]) -> None:
    assert (await http.post("/v1/chat/completions", json=CHAT | asked)).status_code == 200
    assert json.loads(fake.requests[0].sampling.structured_output.json_schema) == SCHEMA


async def test_the_openai_client_parses_an_answer(client: AsyncOpenAI, fake: FakeInference) -> None:
    class Person(BaseModel):
        name: str
        age: int

    fake.script = lambda request: Script(pieces=('{"name": "Xiao', ' Huang", "age": 3}'))
    answer = await client.chat.completions.parse(model="toy", messages=QUESTION, response_format=Person)
    assert answer.choices[0].message.parsed == Person(name="Xiao Huang", age=3)
    sent = json.loads(fake.requests[0].sampling.structured_output.json_schema)
    assert sent["required"] == ["name", "age"]


def deep(levels: int) -> dict[str, Any]:
    return {"items": deep(levels - 1)} if levels else {}


FORMAT, SHAPE = "response_format", "structured_outputs"
BAD = [
    ({FORMAT: "json"}, "response_format", "invalid_type"),
    ({FORMAT: {}}, "response_format.type", "missing_required_parameter"),
    ({FORMAT: {"type": "xml"}}, "response_format.type", "invalid_value"),
    ({FORMAT: {"type": "json_schema"}}, "response_format.json_schema", "invalid_value"),
    ({FORMAT: named() | {"type": "text"}}, "response_format.json_schema", "invalid_value"),
    ({FORMAT: named(name="a b")}, "response_format.json_schema.name", "invalid_value"),
    ({FORMAT: named(schema="x")}, "response_format.json_schema.schema", "invalid_type"),
    ({FORMAT: named(schema=deep(400))}, "response_format.json_schema.schema", "invalid_value"),
    ({FORMAT: named(strict="yes")}, "response_format.json_schema.strict", "invalid_type"),
    ({FORMAT: named(x=1)}, "response_format.json_schema.x", "unknown_parameter"),
    (
        {FORMAT: {"type": "json_schema", "json_schema": {"name": "a"}}},
        "response_format.json_schema.schema",
        "missing_required_parameter",
    ),
    ({SHAPE: {}}, "structured_outputs", "invalid_value"),
    ({SHAPE: {"regex": "a", "choice": ["b"]}}, "structured_outputs", "invalid_value"),
    ({SHAPE: {"grammar": "root ::= x"}}, "structured_outputs.grammar", "unknown_parameter"),
    ({SHAPE: {"json_object": False}}, "structured_outputs.json_object", "invalid_value"),
    ({SHAPE: {"json": 5}}, "structured_outputs.json", "invalid_type"),
    ({SHAPE: {"choice": [1]}}, "structured_outputs.choice[0]", "invalid_type"),
    ({SHAPE: {"regex": "a"}, FORMAT: {"type": "json_object"}}, "structured_outputs", "invalid_value"),
]


@pytest.mark.parametrize(("asked", "param", "code"), BAD, ids=[str(b[0])[:70] for b in BAD])
async def test_bad_shape(lone_http: httpx.AsyncClient, asked: dict[str, Any], param: str, code: str) -> None:
    response = await lone_http.post("/v1/chat/completions", json=CHAT | asked)
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, param, code)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("asked", "field", "param"),
    [
        ({FORMAT: named()}, "json_schema", "response_format.json_schema.schema"),
        ({SHAPE: {"json": SCHEMA}}, "json_schema", "structured_outputs.json"),
        ({SHAPE: {"regex": "(("}}, "regex", "structured_outputs.regex"),
        ({SHAPE: {"choice": [""]}}, "choices", "structured_outputs.choice"),
    ],
)
async def test_what_the_engine_refuses_is_named_as_the_client_wrote_it(
    client: AsyncOpenAI, fake: FakeInference, asked: dict[str, Any], field: str, param: str, stream: bool
) -> None:
    refusal = FineryError(Reason.INVALID_ARGUMENT, "It is refused.", field=f"structured_output.{field}")
    fake.script = lambda request: Script(failure=refusal)
    with pytest.raises(BadRequestError) as caught:
        await client.chat.completions.create(model="toy", messages=QUESTION, stream=stream, extra_body=asked)
    assert (caught.value.param, caught.value.code) == (param, "invalid_value")
