"""A whole chat completion, for clients that do not stream."""

from __future__ import annotations

from contextlib import aclosing

import orjson

from finery.inference.v1 import inference_pb2 as pb
from finery_gateway.openai import convert
from finery_gateway.routing.generation import Generation
from finery_shared.errors import FineryError


class Answer:
    """The pieces of a generation, put together by answer."""

    def __init__(self) -> None:
        self._pieces: dict[int, list[str]] = {}
        self._complete = pb.GenerateComplete()

    def add(self, event: pb.GenerateResponse) -> None:
        """Take one event in."""
        if event.HasField("chunk"):
            self._pieces.setdefault(event.chunk.index, []).append(event.chunk.text)
        else:
            self._complete = event.complete

    @property
    def used(self) -> pb.Usage:
        """Tokens of the request."""
        return self._complete.usage

    def body(self, completion_id: str, created: int, model: str, fingerprint: str | None) -> bytes:
        """OpenAI's chat.completion object as JSON."""
        return orjson.dumps(
            {
                "id": completion_id,
                "object": "chat.completion",
                "created": created,
                "model": model,
                "system_fingerprint": fingerprint,
                "choices": [self._choice(finish) for finish in self._complete.finishes],
                "usage": convert.usage(self.used),
            }
        )

    def _choice(self, finish: pb.ChoiceFinish) -> dict[str, object]:
        content = "".join(self._pieces.get(finish.index, ()))
        return {
            "index": finish.index,
            "message": {"role": "assistant", "content": content, "refusal": None},
            "logprobs": None,
            "finish_reason": convert.finish_reason(finish.finish_reason),
        }


async def collect(generation: Generation) -> Answer:
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
