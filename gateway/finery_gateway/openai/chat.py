"""``POST /v1/chat/completions``."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from finery_gateway.openai import convert, examples, unserved
from finery_gateway.openai.documented import answers, request_body
from finery_gateway.openai.respond import CHAT, respond
from finery_gateway.openai.schemas import ChatCompletionRequest
from finery_gateway.openai.stream import StreamTimes
from finery_gateway.openai.validation import check, read_body
from finery_gateway.request_log import record_of
from finery_gateway.routing.router import Router


def chat_routes(router: Router, body_bytes: int, times: StreamTimes) -> APIRouter:
    """The route, answered by a router's backends."""
    routes = APIRouter()

    @routes.post(
        "/v1/chat/completions",
        response_model=None,
        openapi_extra=request_body(ChatCompletionRequest, examples.CHAT),
        responses=answers(examples.CHAT_ANSWER, 400, 401, 404, 413, 429, 503, 504, stream=True),
    )
    async def create_chat_completion(request: Request) -> Response:
        """Answer a conversation, whole or as a stream of server-sent events."""
        record = record_of(request)
        wish = check(ChatCompletionRequest, await read_body(request, body_bytes), unserved.CHAT)
        record.note_wish(wish.model, stream=bool(wish.stream))
        generation = router.generate(convert.to_generate(wish), record.request_id)
        return await respond(request, generation, wish, CHAT, times)

    return routes
