"""Request ids, one log line and one count a request, and the last net for bugs: pure ASGI, outside everything else."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Mapping
from typing import Any, Protocol

import structlog
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from finery.inference.v1.inference_pb2 import Usage
from finery_gateway.openai.errors import shutting_down, unexpected
from finery_gateway.paths import tells_of_process
from finery_shared.log import Logger

CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a client that has left; it stands in the log, nobody reads it."""

BODY_SEND = "finery.body_send"
"""Key of a scope: where the body of a response that has started may be sent without passing every layer; none of them
looks at it, and each would cost every chunk of a stream a call."""

_HEADER = b"x-request-id"
_VALID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_KEY = "finery.request"


class RequestObserver(Protocol):
    """Who counts requests."""

    def began(self) -> None:
        """A request has come."""

    def ended(self, record: RequestRecord, endpoint: str) -> None:
        """It has ended. ``endpoint`` is its route's path."""


class RequestRecord:
    """What log and figures will say of one request; handlers add what they learn."""

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.status = 0
        self.parameters: Mapping[str, str] = {}
        """The client's names of fields that an inference service may complain of."""
        self.model = ""
        """The model that was asked for, be there one or not."""
        self.left = False
        """Whether the client has left."""
        self.moves = 0
        """How often the request was sent on to another backend."""
        self.first_seconds: float | None = None
        """Time to the first piece of a streamed answer."""
        self.usage: Usage | None = None
        self._answers = 1
        self._complete_seconds = 0.0
        self._start = time.perf_counter()
        self._notes: dict[str, Any] = {}

    def note(self, **notes: Any) -> None:
        """Add fields to the log line."""
        self._notes.update(notes)

    def note_wish(self, model: str, **notes: Any) -> None:
        """Add what is asked for."""
        self.model = model
        self.note(model=model, **notes)

    def note_generation(self, backend: str, moves: int) -> None:
        """Add who answered, and how often the request was sent on before."""
        self.moves = moves
        self.note(backend=backend)

    def note_usage(self, used: Usage, answers: int) -> None:
        """Add the tokens of the complete answer, or of several together."""
        self.usage, self._answers, self._complete_seconds = used, answers, self.elapsed()
        self.note(prompt_tokens=used.prompt_tokens, completion_tokens=used.completion_tokens)

    def client_left(self) -> None:
        """The client did not wait for the answer."""
        self.status = self.status or CLIENT_CLOSED_REQUEST
        self.left = True
        self.note(client_left=True)

    def mark_first(self) -> None:
        """The answer's first piece is there."""
        self.first_seconds = self.elapsed()
        self.note(first_seconds=round(self.first_seconds, 4))

    def inter_token_seconds(self) -> float | None:
        """Mean time between two tokens of one answer; None unless a stream of several tokens is complete."""
        if self.first_seconds is None or self.usage is None:
            return None
        gaps = self.usage.completion_tokens / max(self._answers, 1) - 1
        return (self._complete_seconds - self.first_seconds) / gaps if gaps > 0 else None

    def fields(self) -> dict[str, Any]:
        """The log line."""
        return {"status": self.status, "seconds": round(self.elapsed(), 4), **self._notes}

    def elapsed(self) -> float:
        """Seconds since the request came."""
        return time.perf_counter() - self._start


def record_of(request: Request) -> RequestRecord:
    """The record of the request that is being served."""
    record: RequestRecord = request.scope[_KEY]
    return record


class RequestLog:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, log: Logger, observer: RequestObserver) -> None:
        self._app = app
        self._log = log
        self._observer = observer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = scope[_KEY] = RequestRecord(_request_id(scope))
        scope[BODY_SEND] = send
        header = (_HEADER, record.request_id.encode())
        counted = not tells_of_process(scope["path"])
        if counted:
            self._observer.began()

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
                if counted:
                    self._observer.ended(record, _endpoint(scope))
                self._log.info("request", method=scope["method"], path=scope["path"], **record.fields())


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get("x-request-id", "")
    return given if _VALID.fullmatch(given) else uuid.uuid4().hex


def _endpoint(scope: Scope) -> str:
    """The path of the route that was taken, or "" if none was: a path that a client made up is no label."""
    path: str = getattr(scope.get("route"), "path", "")
    return path
