"""Request ids, one log line a request, and the last net for bugs: pure ASGI, outside everything else."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Mapping
from typing import Any

import structlog
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from finery.inference.v1.inference_pb2 import Usage
from finery_gateway.openai.errors import shutting_down, unexpected
from finery_shared.log import Logger

CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a client that has left; it stands in the log, nobody reads it."""

BODY_SEND = "finery.body_send"
"""Key of a scope: where the body of a response that has started may be sent without passing every layer; none of them
looks at it, and each would cost every chunk of a stream a call."""

_HEADER = b"x-request-id"
_VALID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_KEY = "finery.request"


class RequestRecord:
    """What the log will say of one request; handlers add what they learn."""

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.status = 0
        self.parameters: Mapping[str, str] = {}
        """The client's names of fields that an inference service may complain of."""
        self._start = time.perf_counter()
        self._notes: dict[str, Any] = {}

    def note(self, **notes: Any) -> None:
        """Add fields to the log line."""
        self._notes.update(notes)

    def note_usage(self, used: Usage) -> None:
        """Add the tokens of the answer."""
        self.note(prompt_tokens=used.prompt_tokens, completion_tokens=used.completion_tokens)

    def client_left(self) -> None:
        """The client did not wait for the answer."""
        self.status = self.status or CLIENT_CLOSED_REQUEST
        self.note(client_left=True)

    def mark_first(self) -> None:
        """The answer's first piece is there."""
        self.note(first_seconds=self._elapsed())

    def fields(self) -> dict[str, Any]:
        """The log line."""
        return {"status": self.status, "seconds": self._elapsed(), **self._notes}

    def _elapsed(self) -> float:
        return round(time.perf_counter() - self._start, 4)


def record_of(request: Request) -> RequestRecord:
    """The record of the request that is being served."""
    record: RequestRecord = request.scope[_KEY]
    return record


class RequestLog:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, log: Logger) -> None:
        self._app = app
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = scope[_KEY] = RequestRecord(_request_id(scope))
        scope[BODY_SEND] = send
        header = (_HEADER, record.request_id.encode())

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                message["headers"] = [*message.get("headers", ()), header]
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=record.request_id):
            try:
                await self._app(scope, receive, send_marked)
            except asyncio.CancelledError:
                if not record.status:
                    await shutting_down().response()(scope, receive, send_marked)
                raise
            except Exception:
                self._log.exception("unexpected error", method=scope["method"], path=scope["path"])
                if record.status:
                    raise  # The server cuts the connection, so that the client can't take the answer for whole.
                await unexpected(record.request_id).response()(scope, receive, send_marked)
            finally:
                self._log.info("request", method=scope["method"], path=scope["path"], **record.fields())


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get("x-request-id", "")
    return given if _VALID.fullmatch(given) else uuid.uuid4().hex
