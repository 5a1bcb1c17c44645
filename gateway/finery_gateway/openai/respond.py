"""From a generation to the response that a client asked for: a stream, or an answer in one piece."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from finery_gateway.client_watch import ClientWatch
from finery_gateway.openai.answer import Answer, collect
from finery_gateway.openai.head import Head
from finery_gateway.openai.schemas import SamplingRequest
from finery_gateway.openai.shape import field_names
from finery_gateway.openai.sse import ChatFrames, Frames, TextFrames
from finery_gateway.openai.stream import EventStream, StreamTimes
from finery_gateway.request_log import CLIENT_CLOSED_REQUEST, record_of
from finery_gateway.routing.generation import Answering, ClientGoneError


@dataclass(frozen=True)
class Form:
    """How one kind of completion is asked for and written: its prompt's name, its ids, its frames (given what they
    share, and whether they say usage), and its body (given the answer, its head and the backend's fingerprint).
    """

    prompt: str
    prefix: str
    frames: Callable[[dict[str, object], bool], Frames]
    body: Callable[[Answer, Head, str | None], bytes]


CHAT = Form("messages", "chatcmpl", ChatFrames, Answer.chat)
TEXT = Form("prompt", "cmpl", TextFrames, Answer.completion)


async def respond(
    request: Request, generation: Answering, wish: SamplingRequest, form: Form, times: StreamTimes
) -> Response:
    """The response to `request`, as `wish` asks for it. Raises FineryError while nothing was sent."""
    record = record_of(request)
    record.parameters = {"prompt": form.prompt, **field_names(wish.structured_outputs)}
    head, usage = Head(f"{form.prefix}-{uuid.uuid4().hex}", int(time.time()), wish.model), wish.include_usage
    if wish.stream:

        def begin(fingerprint: str | None) -> Frames:
            return form.frames(head.fields(fingerprint), usage)

        return EventStream(generation, begin, record, times, include_usage=usage)
    async with ClientWatch(request.receive, generation.cancel):
        try:
            answer = await collect(generation)
        except ClientGoneError:
            record.client_left()
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        finally:
            generation.close()
            record.note_generation(generation.backend, generation.moves)
    record.note_usage(answer.used, answer.answers)
    return Response(form.body(answer, head, generation.fingerprint), media_type="application/json")
