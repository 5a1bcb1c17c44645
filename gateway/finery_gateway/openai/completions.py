"""``POST /v1/completions``: text that goes on from a prompt, without a chat template."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from finery_gateway.openai import convert, examples, unserved
from finery_gateway.openai.documented import answers, request_body
from finery_gateway.openai.respond import TEXT, respond
from finery_gateway.openai.schemas import CompletionRequest
from finery_gateway.openai.stream import StreamTimes
from finery_gateway.openai.validation import check, read_body
from finery_gateway.request_log import record_of
from finery_gateway.routing.generation import Answering
from finery_gateway.routing.router import Router
from finery_gateway.routing.several import Several


def completion_routes(router: Router, body_bytes: int, times: StreamTimes) -> APIRouter:
    """The route, answered by a router's backends."""
    routes = APIRouter()

    @routes.post(
        "/v1/completions",
        response_model=None,
        openapi_extra=request_body(CompletionRequest, examples.COMPLETION),
        responses=answers(examples.COMPLETION_ANSWER, 400, 401, 404, 413, 429, 503, 504, stream=True),
    )
    async def create_completion(request: Request) -> Response:
        """Go on from one or several prompts, whole or as a stream of server-sent events."""
        record = record_of(request)
        wish = check(CompletionRequest, await read_body(request, body_bytes), unserved.COMPLETIONS)
        record.note_wish(wish.model, stream=bool(wish.stream))
        generations = [router.generate(each, record.request_id) for each in convert.to_generates(wish)]
        generation: Answering = generations[0]
        if len(generations) > 1:
            generation = Several(generations, wish.n or 1, streamed=bool(wish.stream))
        return await respond(request, generation, wish, TEXT, times)

    return routes
