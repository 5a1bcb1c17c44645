"""Frames of a streamed completion. A frame costs one JSON string, not a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import orjson

from finery.inference.v1 import inference_pb2 as pb
from finery_gateway.openai.logprobs import TextLogprobs, chat_logprobs

DONE = b"data: [DONE]\n\n"
KEEPALIVE = b": keep-alive\n\n"


class Frames(Protocol):
    """The frames of one stream; an empty one is not sent."""

    def role(self, index: int) -> bytes:
        """The first frame of one answer."""

    def delta(self, index: int, text: str) -> bytes:
        """New text of one answer."""

    def delta_with_logprobs(self, index: int, text: str, positions: Sequence[pb.PositionLogprobs]) -> bytes:
        """New tokens of one answer, and how likely they were; their text may still be to come."""

    def calls(self, index: int, calls: list[dict[str, object]]) -> bytes:
        """What was learnt of one answer's tool calls."""

    def finish(self, index: int, reason: str) -> bytes:
        """The last frame of one answer."""

    def usage(self, usage: dict[str, object]) -> bytes:
        """The frame after all answers, without choices."""


class _Shared:
    """What the frames of one stream share, encoded once."""

    def __init__(self, head: dict[str, object], usage: bool) -> None:
        self._head = b"data: " + orjson.dumps(head)[:-1] + b',"choices":['
        # With include_usage every chunk says usage, null until the last one.
        self._end = b'],"usage":null}\n\n' if usage else b"]}\n\n"
        self._delta_heads: dict[int, bytes] = {}

    def _with_logprobs(self, index: int, key: bytes, content: bytes, logprobs: dict[str, object]) -> bytes:
        choice = b'{"index":%d,%s:%s,"logprobs":%s,"finish_reason":null}'
        return self._head + choice % (index, key, content, escape(orjson.dumps(logprobs))) + self._end

    def usage(self, usage: dict[str, object]) -> bytes:
        """See Frames."""
        return self._head + b'],"usage":' + orjson.dumps(usage) + b"}\n\n"


class ChatFrames(_Shared):
    """Chat completion chunks."""

    def __init__(self, head: dict[str, object], usage: bool) -> None:
        super().__init__(head | {"object": "chat.completion.chunk"}, usage)
        self._delta_tail = b'},"logprobs":null,"finish_reason":null}' + self._end

    def delta(self, index: int, text: str) -> bytes:
        """See Frames."""
        head = self._delta_heads.get(index)
        if head is None:
            head = self._delta_heads[index] = self._head + b'{"index":%d,"delta":{"content":' % index
        return head + encode(text) + self._delta_tail

    def delta_with_logprobs(self, index: int, text: str, positions: Sequence[pb.PositionLogprobs]) -> bytes:
        """See Frames."""
        return self._with_logprobs(index, b'"delta"', b'{"content":%s}' % encode(text), chat_logprobs(positions))

    def role(self, index: int) -> bytes:
        """See Frames."""
        delta = b'{"index":%d,"delta":{"role":"assistant","content":""' % index
        return self._head + delta + self._delta_tail

    def calls(self, index: int, calls: list[dict[str, object]]) -> bytes:
        """See Frames. The content is a string here too."""
        delta = b'{"index":%d,"delta":{"content":"","tool_calls":%s' % (index, escape(orjson.dumps(calls)))
        return self._head + delta + self._delta_tail

    def finish(self, index: int, reason: str) -> bytes:
        """See Frames. The content is a string here too: clients add it up unguarded."""
        choice = b'{"index":%d,"delta":{"content":""},"logprobs":null,"finish_reason":%s}'
        return self._head + choice % (index, orjson.dumps(reason)) + self._end


class TextFrames(_Shared):
    """Text completion chunks."""

    def __init__(self, head: dict[str, object], usage: bool) -> None:
        super().__init__(head | {"object": "text_completion"}, usage)
        self._logprobs: dict[int, TextLogprobs] = {}
        self._delta_tail = b',"logprobs":null,"finish_reason":null}' + self._end

    def delta_with_logprobs(self, index: int, text: str, positions: Sequence[pb.PositionLogprobs]) -> bytes:
        """See Frames."""
        told = self._logprobs.setdefault(index, TextLogprobs()).told(positions)
        return self._with_logprobs(index, b'"text"', encode(text), told)

    def role(self, index: int) -> bytes:
        """Nobody speaks in a text."""
        return b""

    def delta(self, index: int, text: str) -> bytes:
        """See Frames."""
        head = self._delta_heads.get(index)
        if head is None:
            head = self._delta_heads[index] = self._head + b'{"index":%d,"text":' % index
        return head + encode(text) + self._delta_tail

    def calls(self, index: int, calls: list[dict[str, object]]) -> bytes:
        """A text calls nothing."""
        return b""

    def finish(self, index: int, reason: str) -> bytes:
        """See Frames."""
        choice = b'{"index":%d,"text":"","logprobs":null,"finish_reason":%s}'
        return self._head + choice % (index, orjson.dumps(reason)) + self._end


def encode(text: str) -> bytes:
    """A text as a JSON string that no client's line splitter can break.

    JSON may hold U+0085, U+2028 and U+2029 as they are, and several HTTP libraries end a line there.
    """
    encoded = orjson.dumps(text)
    return encoded if text.isascii() else escape(encoded)


def escape(encoded: bytes) -> bytes:
    """JSON without the characters that `encode` speaks of."""
    return (
        encoded.replace(b"\xc2\x85", b"\\u0085")
        .replace(b"\xe2\x80\xa8", b"\\u2028")
        .replace(b"\xe2\x80\xa9", b"\\u2029")
    )


def error(body: bytes) -> bytes:
    """The frame that ends a stream which failed."""
    return b"data: " + body + b"\n\n"
