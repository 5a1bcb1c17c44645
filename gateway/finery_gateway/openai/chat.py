"""``POST /v1/chat/completions``."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from finery_gateway.openai import convert, unserved
from finery_gateway.openai.head import Head
from finery_gateway.openai.schemas import ChatCompletionRequest
from finery_gateway.openai.sse import ChatFrames
from finery_gateway.openai.stream import EventStream
from finery_gateway.openai.validation import check, read_body
from finery_gateway.openai.whole import whole_answer
from finery_gateway.request_log import record_of
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
        head, usage = Head("chatcmpl", wish.model), wish.include_usage
        if wish.stream:
            return EventStream(
                generation,
                lambda fingerprint: ChatFrames(head.fields(fingerprint), usage),
                record,
                keepalive_seconds,
                include_usage=usage,
            )
        return await whole_answer(request, generation, lambda answer, seen: answer.chat(head, seen))

    return routes
