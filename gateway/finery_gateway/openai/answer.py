"""A whole completion, for clients that do not stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import aclosing

import orjson

from finery.inference.v1 import inference_pb2 as pb
from finery_gateway.openai import convert
from finery_gateway.openai.head import Head
from finery_gateway.openai.logprobs import TextLogprobs, chat_logprobs
from finery_gateway.openai.tool_calls import ToolCalls
from finery_gateway.routing.generation import Answering
from finery_shared.errors import FineryError


class Answer:
    """The pieces of a generation, put together by answer."""

    def __init__(self) -> None:
        self._pieces: dict[int, list[str]] = {}
        self._logprobs: dict[int, list[pb.PositionLogprobs]] = {}
        self._calls: dict[int, ToolCalls] = {}
        self._complete = pb.GenerateComplete()

    def add(self, event: pb.GenerateResponse) -> None:
        """Take one event in."""
        if event.HasField("chunk"):
            chunk = event.chunk
            self._pieces.setdefault(chunk.index, []).append(chunk.text)
            if chunk.logprobs:
                self._logprobs.setdefault(chunk.index, []).extend(chunk.logprobs)
            if chunk.tool_calls:
                self._calls.setdefault(chunk.index, ToolCalls()).add(chunk.tool_calls)
        else:
            self._complete = event.complete

    @property
    def used(self) -> pb.Usage:
        """Tokens of the request."""
        return self._complete.usage

    @property
    def answers(self) -> int:
        """How many there are."""
        return len(self._complete.finishes)

    def chat(self, head: Head, fingerprint: str | None) -> bytes:
        """OpenAI's chat.completion object as JSON."""
        return self._body(head, fingerprint, "chat.completion", self._message, chat_logprobs)

    def completion(self, head: Head, fingerprint: str | None) -> bytes:
        """OpenAI's text_completion object as JSON."""
        return self._body(head, fingerprint, "text_completion", _text, lambda told: TextLogprobs().told(told))

    def _message(self, index: int, text: str) -> dict[str, object]:
        message: dict[str, object] = {"role": "assistant", "content": text, "refusal": None}
        if calls := self._calls.get(index):
            message |= {"content": text or None, "tool_calls": calls.whole()}
        return {"message": message}

    def _body(
        self,
        head: Head,
        fingerprint: str | None,
        kind: str,
        content: Callable[[int, str], dict[str, object]],
        logprobs: Callable[[Sequence[pb.PositionLogprobs]], dict[str, object]],
    ) -> bytes:
        choices = [
            {
                "index": finish.index,
                **content(finish.index, "".join(self._pieces.get(finish.index, ()))),
                "logprobs": logprobs(told) if (told := self._logprobs.get(finish.index)) else None,
                "finish_reason": convert.finish_reason(finish.finish_reason),
            }
            for finish in self._complete.finishes
        ]
        usage = convert.usage(self.used)
        return orjson.dumps(head.fields(fingerprint) | {"object": kind, "choices": choices, "usage": usage})


def _text(_index: int, text: str) -> dict[str, object]:
    return {"text": text}


async def collect(generation: Answering) -> Answer:
    """The whole answer. As the client has seen nothing of it, a backend that fails midway is replaced too.

    Raises FineryError, or ClientGoneError when the generation is cancelled.
    """
    while True:
        answer = Answer()
        try:
            async with aclosing(generation.events()) as events:
                async for event in events:
                    answer.add(event)
            return answer
        except FineryError as failure:
            if not generation.may_move(failure):
                raise
