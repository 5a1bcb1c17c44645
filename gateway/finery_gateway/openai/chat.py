"""``POST /v1/chat/completions``."""

from __future__ import annotations

import time
import uuid

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from finery_gateway.client_watch import ClientWatch
from finery_gateway.openai import convert, unserved
from finery_gateway.openai.answer import collect
from finery_gateway.openai.schemas import ChatCompletionRequest
from finery_gateway.openai.stream import ChatStream, StreamHead
from finery_gateway.openai.validation import check, read_body
from finery_gateway.request_log import CLIENT_CLOSED_REQUEST, RequestRecord, record_of
from finery_gateway.routing.generation import ClientGoneError, Generation
from finery_gateway.routing.router import Router


def chat_routes(router: Router, body_bytes: int, keepalive_seconds: float) -> APIRouter:
    """The route, answered by a router's backends."""
    routes = APIRouter()

    @routes.post("/v1/chat/completions", response_model=None)
    async def create_chat_completion(request: Request) -> Response:
        """Answer a conversation, whole or as a stream of server-sent events."""
        record = record_of(request)
        wish = check(ChatCompletionRequest, await read_body(request, body_bytes), unserved.CHAT)
        record.note(model=wish.model, stream=bool(wish.stream))
        generation = router.generate(convert.to_generate(wish), record.request_id)
        head = StreamHead(f"chatcmpl-{uuid.uuid4().hex}", int(time.time()), wish.model, wish.include_usage)
        if wish.stream:
            return ChatStream(generation, head, record, keepalive_seconds)
        return await _answer_whole(request, generation, head, record)

    return routes


async def _answer_whole(request: Request, generation: Generation, head: StreamHead, record: RequestRecord) -> Response:
    async with ClientWatch(request.receive, generation.cancel):
        try:
            answer = await collect(generation)
        except ClientGoneError:
            record.client_left()
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        finally:
            generation.close()
            record.note(backend=generation.backend)
    record.note_usage(answer.used)
    body = answer.body(head.completion_id, head.created, head.model, generation.fingerprint)
    return Response(body, media_type="application/json")
