"""Conversations as every later stage sees them: roles, texts and tool calls, or a plain text; nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NotRequired, TypedDict

Lang = Literal["zh", "en"]

_HAN = re.compile("[\u4e00-\u9fff]")


class ToolFunction(TypedDict):
    """What a tool call calls; ``arguments`` is an object, as chat templates expect, not OpenAI's JSON string."""

    name: str
    arguments: Mapping[str, Any]


class ToolCall(TypedDict):
    """A tool call of an assistant's message."""

    type: Literal["function"]
    function: ToolFunction
    id: NotRequired[str]


class Message(TypedDict):
    """One message in OpenAI's shape; ``role`` is system, user, assistant or tool, ``content`` may be ""."""

    role: str
    content: str
    tool_calls: NotRequired[list[ToolCall]]
    tool_call_id: NotRequired[str]
    name: NotRequired[str]


@dataclass(frozen=True)
class Turn:
    """A message as it was read, before placeholders are filled; ``lang`` is its own language, if the row says so."""

    role: str
    content: str
    lang: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    name: str = ""

    def message(self) -> Message:
        """The message without its language."""
        message = Message(role=self.role, content=self.content)
        if self.tool_calls:
            message["tool_calls"] = list(self.tool_calls)
        if self.tool_call_id:
            message["tool_call_id"] = self.tool_call_id
        if self.name:
            message["name"] = self.name
        return message


@dataclass(frozen=True)
class Conversation:
    """A training row: an optional system message, then user and assistant in turn, the assistant last.

    Tool messages may stand between an assistant's tool calls and its answer; ``tools`` are the functions that the row
    offers, in OpenAI's shape. A row of plain ``text`` has no messages. ``origin`` says where the row was read, for
    error messages: "file.jsonl, line 12".
    """

    messages: tuple[Message, ...]
    lang: Lang
    tag: str = ""
    origin: str = ""
    tools: tuple[Mapping[str, Any], ...] = ()
    text: str = ""

    def with_system(self, system: str) -> Conversation:
        """Put a system message in front, unless there is one or the row is plain text."""
        if not system or not self.messages or self.messages[0]["role"] == "system":
            return self
        first = Message(role="system", content=system)
        return replace(self, messages=(first, *self.messages))


def language_of(text: str) -> Lang:
    """Chinese if the text holds a Han character, else English."""
    return "zh" if _HAN.search(text) else "en"
