"""Tools and tool calls as OpenAI's clients send them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import orjson
from pydantic import AfterValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from finery_gateway.openai.strict import Strict
from finery_shared.errors import FineryError
from finery_shared.templates.variables import FIELD, check_variables

MOST_TOOLS = 128

Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


def _writable(value: dict[str, Any]) -> dict[str, Any]:
    try:
        orjson.dumps(value)
    except TypeError:  # orjson writes less deeply than it reads
        raise PydanticCustomError("too_deep", "nested too deeply") from None
    return value


def _object_schema(schema: dict[str, Any]) -> dict[str, Any]:
    if schema.get("type", "object") != "object":
        raise PydanticCustomError("object_schema", "a JSON schema of an object is needed: its type must be 'object'")
    return schema


JsonObject = Annotated[dict[str, Any], AfterValidator(_writable)]


class FunctionDefinition(Strict):
    """What the model is told of a function."""

    name: Name
    description: str | None = None
    parameters: Annotated[JsonObject, AfterValidator(_object_schema)] | None = None
    strict: bool | None = None


class ToolDefinition(Strict):
    """A tool that the model may call."""

    type: Literal["function"]
    function: FunctionDefinition


class FunctionName(Strict):
    """A function by its name."""

    name: Annotated[str, Field(min_length=1)]


class NamedToolChoice(Strict):
    """The function that is to be called."""

    type: Literal["function"]
    function: FunctionName


def _choice_kind(value: Any) -> str | None:
    if isinstance(value, str):
        return "pick:mode"
    return "pick:named" if isinstance(value, dict) else None


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("pick:mode")] | Annotated[NamedToolChoice, Tag("pick:named")],
    Discriminator(_choice_kind, custom_error_type="tool_choice_type", custom_error_message="expected a mode or a tool"),
]


def _object_text(text: str) -> str:
    try:
        fine = isinstance(orjson.loads(text or "{}"), dict)
    except orjson.JSONDecodeError:
        fine = False
    if not fine:
        raise PydanticCustomError("object_text", "a JSON object as text is needed")
    return text


class CalledFunction(Strict):
    """A function that the model asked to be called; ``arguments`` is a JSON object as text."""

    name: Annotated[str, Field(min_length=1)]
    arguments: Annotated[str, AfterValidator(_object_text)]


class ToolCall(Strict):
    """A call in an assistant's message."""

    id: Annotated[str, Field(min_length=1)]
    type: Literal["function"]
    function: CalledFunction
    index: Annotated[int, Field(ge=0)] | None = None
    """What a client that put the call together from a stream may leave there; it says nothing."""


def check_choice(tools: Sequence[ToolDefinition], choice: str | NamedToolChoice | None) -> None:
    """Refuse tools of one name, and a choice that the tools don't have."""
    names = [tool.function.name for tool in tools]
    for at, name in enumerate(names):
        if name in names[:at]:
            raise _conflict(f"There are two tools named '{name}'.", f"tools[{at}].function.name")
    if choice == "required" and not names:
        raise _conflict("'tool_choice' is only allowed when 'tools' are specified.", "tool_choice")
    if isinstance(choice, NamedToolChoice) and choice.function.name not in names:
        raise _conflict(f"Tool choice '{choice.function.name}' not found in 'tools' parameter.", "tool_choice")


def check_template_kwargs(variables: Mapping[str, Any]) -> None:
    """Refuse template variables that rendering sets by itself."""
    try:
        check_variables(variables)
    except FineryError as error:
        raise _conflict(error.message, error.metadata.get("field", FIELD)) from error


def _conflict(message: str, param: str) -> PydanticCustomError:
    # The message is a template: what callers wrote into it must not be read as one.
    return PydanticCustomError("conflict", "{text}", {"text": message, "param": param})
