"""An answer in one piece, unless the client leaves first."""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response

from finery_gateway.client_watch import ClientWatch
from finery_gateway.openai.answer import Answer, collect
from finery_gateway.request_log import CLIENT_CLOSED_REQUEST, record_of
from finery_gateway.routing.generation import Answering, ClientGoneError


async def whole_answer(
    request: Request, generation: Answering, body: Callable[[Answer, str | None], bytes]
) -> Response:
    """Collect the answer and send it as ``body`` makes it of the answer and the backend's fingerprint."""
    record = record_of(request)
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
    return Response(body(answer, generation.fingerprint), media_type="application/json")
