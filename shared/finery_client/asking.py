"""Asking a model one question after the other: each answer comes with the history for the next question."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol, Unpack

from finery_client.conversation import Message, Sampling, conversation

SIDE_BY_SIDE = 64
"""Questions of one call that are asked at a time."""


class Answer(NamedTuple):
    """What a model said, and the conversation that ends with it."""

    response: str
    history: list[Message]


class Question(NamedTuple):
    """A question that goes on from a conversation."""

    query: str
    history: Sequence[Message] = ()


class Talker(Protocol):
    """What answers conversations; `finery_client.conversation.Chat` does."""

    def complete(self, messages: Sequence[Message], sampling: Sampling | None = None) -> str:
        """The whole answer."""

    def stream(self, messages: Sequence[Message], sampling: Sampling | None = None) -> Iterator[str]:
        """The answer in pieces."""


class Model:
    """A model to ask. ``system`` is said before every conversation.

    Sampling is given by OpenAI's names: max_tokens, temperature, top_p, seed. Every method raises FineryError.
    """

    def __init__(self, talker: Talker, system: str = "") -> None:
        self._talker = talker
        self._system = system

    def ask(self, query: str, history: Sequence[Message] = (), **sampling: Unpack[Sampling]) -> Answer:
        """The whole answer to a question."""
        return _answered(query, history, self._talker.complete(self._messages(query, history), sampling))

    def ask_all(self, questions: Sequence[str | Question], **sampling: Unpack[Sampling]) -> list[Answer]:
        """The answers to several questions, in their order; the engine makes them side by side."""
        asked = [Question(each) if isinstance(each, str) else each for each in questions]
        with ThreadPoolExecutor(SIDE_BY_SIDE) as threads:
            return list(threads.map(lambda each: self.ask(each.query, each.history, **sampling), asked))

    def stream(self, query: str, history: Sequence[Message] = (), **sampling: Unpack[Sampling]) -> AnswerStream:
        """The answer to a question in pieces, as it is made."""
        return AnswerStream(query, history, self._talker.stream(self._messages(query, history), sampling))

    def _messages(self, query: str, history: Sequence[Message]) -> list[Message]:
        return conversation(query, self._system, history)


class AnswerStream:
    """The pieces of an answer. ``response`` and ``history`` grow with them, and are whole at the end."""

    def __init__(self, query: str, history: Sequence[Message], pieces: Iterator[str]) -> None:
        self._query = query
        self._before = history
        self._pieces = pieces
        self.response = ""

    @property
    def history(self) -> list[Message]:
        """The conversation up to the last piece."""
        return _answered(self._query, self._before, self.response).history

    def __iter__(self) -> Iterator[str]:
        for piece in self._pieces:
            self.response += piece
            yield piece


def _answered(query: str, history: Sequence[Message], response: str) -> Answer:
    turn: list[Message] = [{"role": "user", "content": query}, {"role": "assistant", "content": response}]
    return Answer(response, [*history, *turn])
