"""The shape that a client wants an answer to have: OpenAI's ``response_format``, vLLM's ``structured_outputs``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from finery.inference.v1 import inference_pb2 as pb
from finery_gateway.openai.strict import Strict


def _text_of_schema(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # orjson writes less deeply than it reads
        raise PydanticCustomError("too_deep", "Nested too deeply") from None


def _only_object(value: Any) -> Any:
    if not isinstance(value, dict):
        raise PydanticCustomError("dict_type", "Input should be an object")
    return _text_of_schema(value)


SchemaObject = Annotated[str, BeforeValidator(_only_object), WithJsonSchema({"type": "object"})]
SchemaOrText = Annotated[str, BeforeValidator(_text_of_schema), WithJsonSchema({"type": ["object", "string"]})]


class JsonSchema(Strict):
    """A named JSON schema. Its name and description are for the reader; it is always followed strictly."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: str | None = None
    schema_text: Annotated[SchemaObject, Field(alias="schema")]
    strict: bool | None = None


class ResponseFormat(Strict):
    """OpenAI's ``response_format``."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _schema_where_it_belongs(self) -> Self:
        if (self.json_schema is not None) != (self.type == "json_schema"):
            words = "is needed with" if self.json_schema is None else "is only for"
            raise PydanticCustomError(
                "conflict",
                "'response_format.json_schema' {words} the type 'json_schema'.",
                {"param": "response_format.json_schema", "words": words},
            )
        return self


class StructuredOutputs(Strict):
    """vLLM's ``structured_outputs``, one of its kinds."""

    schema_text: Annotated[SchemaOrText | None, Field(alias="json")] = None
    json_object: Literal[True] | None = None
    regex: str | None = None
    choice: list[str] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if sum(getattr(self, name) is not None for name in type(self).model_fields) != 1:
            raise PydanticCustomError(
                "conflict",
                "Exactly one of 'json', 'json_object', 'regex' and 'choice' is needed.",
                {"param": "structured_outputs"},
            )
        return self


def to_structured(asked: ResponseFormat | None, extension: StructuredOutputs | None) -> pb.StructuredOutput | None:
    """The one shape that was asked for, if any."""
    if extension is not None:
        if extension.schema_text is not None:
            return pb.StructuredOutput(json_schema=extension.schema_text)
        if extension.regex is not None:
            return pb.StructuredOutput(regex=extension.regex)
        if extension.choice is not None:
            return pb.StructuredOutput(choices=pb.Choices(texts=extension.choice))
        return pb.StructuredOutput(json_object=True)
    if asked is None or asked.type == "text":
        return None
    if asked.json_schema is not None:
        return pb.StructuredOutput(json_schema=asked.json_schema.schema_text)
    return pb.StructuredOutput(json_object=True)


def field_names(extension: StructuredOutputs | None) -> Mapping[str, str]:
    """The client's names of what the inference service may find wrong with a shape."""
    schema = "response_format.json_schema.schema" if extension is None else "structured_outputs.json"
    return {
        "structured_output.json_schema": schema,
        "structured_output.json_object": "response_format",
        "structured_output.regex": "structured_outputs.regex",
        "structured_output.choices": "structured_outputs.choice",
    }
