"""Conversations as every later stage sees them: roles and texts, nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict

Lang = Literal["zh", "en"]


class Message(TypedDict):
    """One message in OpenAI's shape; ``role`` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True)
class Turn:
    """A message as it was read, before placeholders are filled; ``lang`` is its own language, if the row says so."""

    role: str
    content: str
    lang: str | None = None

    def message(self) -> Message:
        """The message without its language."""
        return Message(role=self.role, content=self.content)


@dataclass(frozen=True)
class Conversation:
    """A training row: an optional system message, then user and assistant in turn, the assistant last.

    ``origin`` says where it was read, for error messages: "file.jsonl:12".
    """

    messages: tuple[Message, ...]
    lang: Lang
    tag: str = ""
    origin: str = ""

    def with_system(self, system: str) -> Conversation:
        """Put a system message in front, unless there is one."""
        if not system or self.messages[0]["role"] == "system":
            return self
        first = Message(role="system", content=system)
        return Conversation((first, *self.messages), self.lang, self.tag, self.origin)


def language_of(text: str) -> Lang:
    """Chinese if the text holds a Han character, else English."""
    return "zh" if any("\u4e00" <= char <= "\u9fff" for char in text) else "en"
