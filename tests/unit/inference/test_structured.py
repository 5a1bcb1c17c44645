import json
from pathlib import Path
from typing import Any

import pytest

from finery.inference.v1 import inference_pb2 as i
from finery_shared.errors import Reason
from tests.unit.inference.harness import Harness, refusal

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "kind": {"enum": ["a", "b"]}},
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("shape", "answer"),
    [
        ({"json_object": True}, "{}"),
        ({"choices": {"texts": ["größer", "kleiner"]}}, "größer"),
        ({"json_schema": json.dumps(PERSON)}, '{"name": "", "age": 0, "kind": "a"}'),
    ],
)
async def test_an_answer_has_the_shape(harness: Harness, model_dir: Path, shape: Any, answer: str) -> None:
    await harness.deploy(model_dir)
    text, complete = await harness.answer(structured_output=shape)
    assert text == answer
    assert complete.finishes[0].finish_reason == i.FINISH_REASON_STOP


async def test_an_answer_of_a_shape_can_be_cut_short(harness: Harness, model_dir: Path) -> None:
    await harness.deploy(model_dir)
    text, complete = await harness.answer(structured_output={"choices": {"texts": ["äö"]}}, max_tokens=3)
    assert text == "ä"
    assert complete.finishes[0].finish_reason == i.FINISH_REASON_LENGTH


def deep(levels: int) -> str:
    return '{"items":' * levels + "{}" + "}" * levels


@pytest.mark.parametrize(
    ("shape", "field", "why"),
    [
        ({}, "structured_output", "it has no shape"),
        ({"json_object": False}, "structured_output", "it has no shape"),
        ({"json_schema": "{"}, "structured_output.json_schema", "it is not JSON"),
        ({"json_schema": "[]"}, "structured_output.json_schema", "it is not a JSON object"),
        ({"json_schema": '{"$schema": 5}'}, "structured_output.json_schema", "it is not a JSON object"),
        ({"json_schema": '{"type": "objekt"}'}, "structured_output.json_schema", "not a valid JSON schema at $.type"),
        ({"json_schema": deep(900)}, "structured_output.json_schema", "nested too deeply"),
        ({"json_schema": json.dumps({"enum": ["x" * 70_000]})}, "structured_output.json_schema", "32768 is the most"),
        ({"json_schema": '{"type": "string", "pattern": "a"}'}, "structured_output.json_schema", "'pattern'"),
        ({"regex": ""}, "structured_output.regex", "it is empty"),
        ({"regex": "a*"}, "structured_output.regex", "the fake engine knows no regular expressions"),
        ({"choices": {}}, "structured_output.choices", "it has 0 texts"),
        ({"choices": {"texts": [""]}}, "structured_output.choices", "one of its texts is empty"),
        ({"choices": {"texts": ["a"] * 1025}}, "structured_output.choices", "it has 1025 texts"),
    ],
)
async def test_a_shape_that_cannot_be_is_named(
    harness: Harness, model_dir: Path, shape: Any, field: str, why: str
) -> None:
    await harness.deploy(model_dir)
    error = await refusal(harness.generate(structured_output=shape))
    assert error.reason is Reason.INVALID_ARGUMENT
    assert error.metadata == {"field": field}
    assert why in error.message
    assert harness.generator.running == 0
