"""A streamed completion: an ASGI response that writes one frame an event."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from finery.inference.v1 import inference_pb2 as pb
from finery_gateway.client_watch import ClientWatch
from finery_gateway.connection import ABORT
from finery_gateway.openai import convert, sse
from finery_gateway.openai.errors import from_finery, shutting_down
from finery_gateway.openai.tool_calls import tool_call_delta
from finery_gateway.request_log import BODY_SEND, RequestRecord
from finery_gateway.routing.generation import Answering, ClientGoneError
from finery_shared.errors import FineryError

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # nginx holds a proxied response back unless told not to.
    (b"x-accel-buffering", b"no"),
]


@dataclass(frozen=True)
class StreamTimes:
    """How patient a stream is, in seconds."""

    keepalive: float = 15.0
    """Idle for this long, it sends a comment."""
    send: float = 60.0
    """A client that takes nothing for this long is cut off: its request holds a place among those of the engine."""


class EventStream(Response):
    """Sends the status with the first event, so that a request which fails before has a proper HTTP error.

    Raises FineryError for such a failure. A later one is an error frame, and no [DONE] follows it. A model that takes
    long to begin makes the status go out with the first keep-alive comment. ``begin`` makes the frames, given the
    backend's fingerprint.
    """

    def __init__(
        self,
        generation: Answering,
        begin: Callable[[str | None], sse.Frames],
        record: RequestRecord,
        times: StreamTimes,
        *,
        include_usage: bool,
    ) -> None:
        super().__init__()
        self._generation = generation
        self._begin_frames = begin
        self._include_usage = include_usage
        self._record = record
        self._times = times
        self._keeping_alive = asyncio.Lock()
        self._writing = False
        self._started = False
        self._finished = False
        self._wrote = time.monotonic()
        self._seen: set[int] = set()
        self._frames: sse.Frames | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Write the stream."""
        self._send = send
        self._send_body: Send = scope.get(BODY_SEND, send)
        self._abort: Callable[[], None] = scope.get(ABORT, self._generation.cancel)
        tick = min(self._times.keepalive, self._times.send)
        async with ClientWatch(receive, self._on_gone, tick, self._tick):
            try:
                await self._relay()
            except ClientGoneError:
                self._record.client_left()
            except FineryError as failure:
                await self._fail(failure)
            except asyncio.CancelledError:
                if self._started and not self._finished:
                    await self._write(sse.error(shutting_down().body()), last=True)
                raise
            finally:
                self._generation.close()
                self._record.note_generation(self._generation.backend, self._generation.moves)

    async def _relay(self) -> None:
        async with aclosing(self._generation.events()) as events:
            async for event in events:
                if self._frames is None:
                    self._frames = self._begin()
                if event.HasField("chunk"):
                    if frame := self._delta(self._frames, event.chunk):
                        await self._write(frame)
                else:
                    await self._write(self._ending(self._frames, event.complete), last=True)

    def _begin(self) -> sse.Frames:
        self._record.mark_first()
        return self._begin_frames(self._generation.fingerprint)

    def _delta(self, frames: sse.Frames, chunk: pb.GenerateChunk) -> bytes:
        index, text = chunk.index, chunk.text
        if chunk.logprobs:
            # Tokens may come before their text: their log-probabilities don't wait for it.
            delta = frames.delta_with_logprobs(index, text, chunk.logprobs)
        else:
            delta = frames.delta(index, text) if text else b""
        if chunk.tool_calls:
            delta += frames.calls(index, [tool_call_delta(call) for call in chunk.tool_calls])
        if index in self._seen:
            return delta
        self._seen.add(index)
        return frames.role(index) + delta

    def _ending(self, frames: sse.Frames, complete: pb.GenerateComplete) -> bytes:
        pieces = [frames.role(f.index) for f in complete.finishes if f.index not in self._seen]
        pieces += [frames.finish(f.index, convert.finish_reason(f.finish_reason)) for f in complete.finishes]
        if self._include_usage:
            pieces.append(frames.usage(convert.usage(complete.usage)))
        pieces.append(sse.DONE)
        self._record.note_usage(complete.usage, len(complete.finishes))
        return b"".join(pieces)

    async def _fail(self, failure: FineryError) -> None:
        if not self._started:
            raise failure
        if self._finished:
            return
        self._record.note(reason=str(failure.reason), error=failure.message, detail=failure.detail)
        await self._write(sse.error(from_finery(failure, self._record.parameters).body()), last=True)

    async def _write(self, data: bytes, last: bool = False) -> None:
        if self._keeping_alive.locked():
            async with self._keeping_alive:
                pass
        self._writing = True
        try:
            await self._put(data, last)
        finally:
            self._writing = False

    async def _put(self, data: bytes, last: bool) -> None:
        self._wrote = time.monotonic()
        self._finished = last
        if not self._started:
            self._started = True
            await self._send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        await self._send_body({"type": "http.response.body", "body": data, "more_body": not last})

    async def _tick(self) -> None:
        quiet = time.monotonic() - self._wrote
        # A write that waits for a slow client is not idle.
        if self._writing:
            if quiet >= self._times.send:
                self._cut_off()
        elif quiet >= self._times.keepalive and not self._finished:
            await self._keep_alive()

    async def _keep_alive(self) -> None:
        async with self._keeping_alive:
            try:
                async with asyncio.timeout(self._times.send):
                    await self._put(sse.KEEPALIVE, last=False)
            except TimeoutError:
                self._cut_off()

    def _cut_off(self) -> None:
        self._record.note(stopped_reading=True)
        self._generation.cancel()
        self._abort()

    def _on_gone(self) -> None:
        # Servers report a disconnect, too, once the response is complete.
        if not self._finished:
            self._generation.cancel()
