"""``POST /tokenize``: the token ids of a prompt, as the engine would get them."""

from __future__ import annotations

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from finery_gateway.openai import convert, examples, unserved
from finery_gateway.openai.documented import answers, request_body
from finery_gateway.openai.schemas import TokenizeRequest
from finery_gateway.openai.validation import check, read_body
from finery_gateway.request_log import record_of
from finery_gateway.routing.router import Router


def tokenize_routes(router: Router, body_bytes: int) -> APIRouter:
    """The route, answered by a router's backends."""
    routes = APIRouter()

    @routes.post(
        "/tokenize",
        response_model=None,
        openapi_extra=request_body(TokenizeRequest, examples.TOKENIZE),
        responses=answers(examples.TOKENIZE_ANSWER, 400, 401, 404, 413, 503, 504),
    )
    async def tokenize(request: Request) -> Response:
        """Count and show the tokens of a text or of a conversation."""
        record = record_of(request)
        wish = check(TokenizeRequest, await read_body(request, body_bytes), unserved.TOKENIZE)
        record.note_wish(wish.model)
        answer = await router.tokenize(convert.to_tokenize(wish), record.request_id)
        tokens = list(answer.token_ids)
        body = {"count": len(tokens), "max_model_len": answer.max_model_len, "tokens": tokens, "token_strs": None}
        return Response(orjson.dumps(body), media_type="application/json")

    return routes
