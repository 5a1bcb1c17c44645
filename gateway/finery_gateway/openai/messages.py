"""Chat messages as OpenAI's clients send them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

ROLES = ("system", "developer", "user", "assistant", "tool")
_PICK = "pick:"
"""Marks the names of union branches, so that they can be told from fields in an error's location."""


class Strict(BaseModel):
    """Takes no value of another type and no field it does not know."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


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


class _Named(Strict):
    content: Content
    name: str | None = None

    @property
    def text(self) -> str:
        """The content in one piece; text parts stand on lines of their own."""
        return self.content if isinstance(self.content, str) else "\n".join(p.text for p in self.content)


class SystemMessage(_Named):
    """Instructions to the model."""

    role: Literal["system", "developer"]


class UserMessage(_Named):
    """What the person says."""

    role: Literal["user"]


class AssistantMessage(_Named):
    """What the model said. The fields that clients send back empty are taken empty only."""

    role: Literal["assistant"]
    refusal: None = None
    audio: None = None
    function_call: None = None
    tool_calls: Annotated[list[Any], Field(max_length=0)] | None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None


class ToolMessage(_Named):
    """A tool's answer."""

    role: Literal["tool"]
    tool_call_id: str | None = None


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
