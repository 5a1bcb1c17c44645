"""What ``/openapi.json`` and ``/docs`` tell of routes whose bodies are read and written by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from finery_gateway.openai import examples

Responses = dict[int | str, dict[str, Any]]

_DEFINITIONS = "#/$defs/"
_ERRORS: Mapping[int, str] = {
    400: "The request is wrong; `param` says where.",
    401: "A key is needed.",
    404: "There is no such model.",
    413: "The body is too large.",
    429: "Every backend's queue is full; `Retry-After` says when to come again.",
    503: "No backend can answer now; `Retry-After` says when to come again.",
    504: "The answer took too long.",
}


class ErrorObject(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(BaseModel):
    """OpenAI's error body."""

    error: ErrorObject


def request_body(model: type[BaseModel], named: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The ``openapi_extra`` of a route that takes this body, with examples by name."""
    schema = model.model_json_schema()
    content = {
        "schema": _inlined(schema, schema.pop("$defs", {})),
        "examples": {name: {"value": value} for name, value in named.items()},
    }
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


def answers(example: Any, *errors: int, stream: bool = False) -> Responses:
    """The ``responses`` of a route: an example of the answer, and the errors that it may be instead."""
    content = {"application/json": {"example": example}}
    if stream:
        content["text/event-stream"] = {"example": examples.STREAM}
    told: Responses = {200: {"description": "The answer.", "content": content}}
    return told | {status: {"description": _ERRORS[status], "model": ErrorBody} for status in errors}


def _inlined(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """A JSON schema without references: in an OpenAPI document they would start from the document's root."""
    if isinstance(schema, list):
        return [_inlined(each, definitions) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if reference := schema.get("$ref"):
        return _inlined(definitions[reference.removeprefix(_DEFINITIONS)] | _without_reference(schema), definitions)
    return {key: _inlined(value, definitions) for key, value in schema.items()}


def _without_reference(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key != "$ref"}
