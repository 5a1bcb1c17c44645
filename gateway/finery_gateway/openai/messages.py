"""Chat messages as OpenAI's clients send them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from finery_gateway.openai.strict import Strict
from finery_gateway.openai.tools import ToolCall

ROLES = ("system", "developer", "user", "assistant", "tool")
_PICK = "pick:"
"""Marks the names of union branches, so that they can be told from fields in an error's location."""


class TextPart(Strict):
    """A piece of a message's content."""

    type: Literal["text"]
    text: str


def _content_kind(value: Any) -> str | None:
    if isinstance(value, str):
        return "pick:text"
    return "pick:parts" if isinstance(value, list) else None


Content = Annotated[
    Annotated[str, Tag("pick:text")] | Annotated[list[TextPart], Field(min_length=1), Tag("pick:parts")],
    Discriminator(
        _content_kind, custom_error_type="content_type", custom_error_message="expected a string or an array of parts"
    ),
]


def _joined(content: str | list[TextPart]) -> str:
    """Content in one piece; text parts stand on lines of their own."""
    return content if isinstance(content, str) else "\n".join(part.text for part in content)


class _Named(Strict):
    content: Content
    name: str | None = None

    @property
    def text(self) -> str:
        """The content in one piece."""
        return _joined(self.content)


class SystemMessage(_Named):
    """Instructions to the model."""

    role: Literal["system", "developer"]


class UserMessage(_Named):
    """What the person says."""

    role: Literal["user"]


class AssistantMessage(Strict):
    """What the model said, or the tools that it called. Other fields that clients send back are taken empty only."""

    role: Literal["assistant"]
    content: Content | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.content is None and not self.tool_calls:
            raise PydanticCustomError("assistant_content", "expected content or tool calls")
        return self

    @property
    def text(self) -> str:
        """The content in one piece, empty when there is none."""
        return "" if self.content is None else _joined(self.content)


class ToolMessage(_Named):
    """A tool's answer."""

    role: Literal["tool"]
    tool_call_id: Annotated[str, Field(min_length=1)]


def _role_kind(value: Any) -> str | None:
    role = value.get("role") if isinstance(value, dict) else None
    if not isinstance(role, str) or role not in ROLES:
        return None
    return f"{_PICK}{'system' if role == 'developer' else role}"


Message = Annotated[
    Annotated[SystemMessage, Tag("pick:system")]
    | Annotated[UserMessage, Tag("pick:user")]
    | Annotated[AssistantMessage, Tag("pick:assistant")]
    | Annotated[ToolMessage, Tag("pick:tool")],
    Discriminator(_role_kind, custom_error_type="message_role", custom_error_message="expected a message with a role"),
]


def parameter_path(location: tuple[int | str, ...]) -> str:
    """An error's location as OpenAI writes it: messages[0].content[1].text."""
    path = ""
    for step in location:
        if isinstance(step, int):
            path += f"[{step}]"
        elif not step.startswith(_PICK):
            path += f".{step}" if path else step
    return path
