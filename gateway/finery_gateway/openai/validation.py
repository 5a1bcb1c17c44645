"""A request body, read and checked, or OpenAI's words for what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from starlette.requests import Request

from finery_gateway.openai.errors import ApiError
from finery_gateway.openai.messages import ROLES, parameter_path
from finery_gateway.openai.unserved import drop_idle

Body = TypeVar("Body", bound=BaseModel)

_JSON_TYPES = {
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    str: "a string",
    list: "an array",
    dict: "an object",
    type(None): "null",
}
_EXPECTED = {
    "string_type": "a string",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "bool_type": "a boolean",
    "list_type": "an array",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "none_required": "null",
    "content_type": "a string or an array of text parts",
    "tool_choice_type": "a string or an object",
    "prompt_type": "a string, an array of strings, an array of token ids, or an array of such arrays",
}
_LONGEST_ECHO = 100


async def read_body(request: Request, limit: int) -> dict[str, Any]:
    """The JSON object in a request's body.

    Raises ApiError: 413 for one of more than ``limit`` bytes, 400 for anything that is not a JSON object.
    """
    body = bytearray()
    too_long = int(request.headers.get("content-length") or 0) > limit
    if not too_long:
        async for piece in request.stream():
            body += piece
            if too_long := len(body) > limit:
                break
    if too_long:
        message = f"The request body is larger than {limit} bytes, which is the most that this server takes."
        raise ApiError(413, message, code="request_too_large", headers={"connection": "close"})
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ApiError(400, f"The request body is not valid JSON: {error}.", code="invalid_json") from error
    if not isinstance(value, dict):
        raise ApiError(400, f"The request body must be a JSON object, but is {_kind(value)}.", code="invalid_type")
    return value


def check(schema: type[Body], body: Mapping[str, Any], unserved: Mapping[str, tuple[Any, ...]]) -> Body:
    """The body as a checked request; raises ApiError naming the parameter."""
    try:
        return schema.model_validate(drop_idle(body, unserved))
    except ValidationError as error:
        raise _explain(error.errors(include_url=False)) from error


def _explain(errors: list[ErrorDetails]) -> ApiError:
    """The first error, a missing or unknown parameter last: it often follows from another one."""
    first = min(errors, key=lambda e: e["type"] in ("extra_forbidden", "missing"))
    path, kind, value = parameter_path(first["loc"]), first["type"], first["input"]
    if kind == "missing":
        return _missing(path)
    if kind == "extra_forbidden":
        return ApiError(400, f"Unrecognized request argument supplied: {path}", path, "unknown_parameter")
    if kind == "conflict":
        return ApiError(400, first["msg"], first["ctx"]["param"], "invalid_value")
    if kind == "assistant_content":
        return _missing(f"{path}.content")
    if kind == "message_role":
        return _explain_role(path, value)
    if kind in _EXPECTED:
        return _wrong_type(path, _EXPECTED[kind], value)
    message = f"Invalid value for '{path}': {_lower_first(first['msg'])}, but got {_echo(value)}."
    return ApiError(400, message, path, "invalid_value")


def _explain_role(path: str, message: Any) -> ApiError:
    if not isinstance(message, dict):
        return _wrong_type(path, "an object", message)
    if "role" not in message:
        return _missing(f"{path}.role")
    supported = ", ".join(f"'{role}'" for role in ROLES)
    text = f"Invalid value: {_echo(message['role'])}. Supported values are: {supported}."
    return ApiError(400, text, f"{path}.role", "invalid_value")


def _missing(path: str) -> ApiError:
    return ApiError(400, f"Missing required parameter: '{path}'.", path, "missing_required_parameter")


def _wrong_type(path: str, expected: str, value: Any) -> ApiError:
    message = f"Invalid type for '{path}': expected {expected}, but got {_kind(value)} instead."
    return ApiError(400, message, path, "invalid_type")


def _kind(value: Any) -> str:
    return _JSON_TYPES.get(type(value), "something else")


def _echo(value: Any) -> str:
    try:
        text = orjson.dumps(value).decode() if not isinstance(value, str) else repr(value)
    except TypeError:  # orjson writes less deeply than it reads
        return "something deeply nested"
    return text if len(text) <= _LONGEST_ECHO else f"{text[:_LONGEST_ECHO]}…"


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
