"""Errors as OpenAI's clients read them."""

from __future__ import annotations

from collections.abc import Mapping

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from finery_shared.errors import FineryError, Reason

RETRY_AFTER_SECONDS = {503: 2, 429: 1}


class ApiError(Exception):
    """An HTTP status and OpenAI's error object."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str = "invalid_request",
        type: str = "invalid_request_error",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.type = type
        self.headers = dict(headers or {})

    def body(self) -> bytes:
        """The JSON that OpenAI sends, in a response and in a stream."""
        return orjson.dumps(
            {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}
        )

    def response(self) -> Response:
        """The whole response."""
        headers = dict(self.headers)
        if self.status in RETRY_AFTER_SECONDS:
            headers.setdefault("retry-after", str(RETRY_AFTER_SECONDS[self.status]))
        return Response(self.body(), self.status, headers, "application/json")


def from_finery(error: FineryError, names: Mapping[str, str] | None = None) -> ApiError:
    """A Finery error, its ``field`` metadata (a proto path or a parameter) as ``param``.

    ``names`` are the client's names of fields that it wrote otherwise.
    """
    kind = error.kind
    field = error.metadata.get("field", "").removeprefix("sampling.")
    param = (names or {}).get(field, field) or None
    if error.reason is Reason.CONTEXT_LENGTH_EXCEEDED:
        param = param or (names or {}).get("prompt", "messages")
    return ApiError(kind.http_status, error.message, param, kind.openai_code or error.reason.lower(), kind.openai_type)


def from_http(request: Request, error: HTTPException) -> ApiError:
    """What the framework refuses: an unknown path, or another method."""
    headers = error.headers or {}
    where = f"{request.method} {request.url.path}"
    if error.status_code == 404:
        message = f"Unknown request URL: {where}. Please check the URL for typos."
        return ApiError(404, message, code="unknown_url", headers=headers)
    if error.status_code == 405:
        message = f"Not allowed: {where}. Allowed methods: {headers.get('Allow', 'others')}."
        return ApiError(405, message, code="method_not_supported", headers=headers)
    return ApiError(error.status_code, str(error.detail), code=f"http_{error.status_code}", headers=headers)


def shutting_down() -> ApiError:
    """The process ends before the answer did."""
    message = "The server is shutting down. Try again."
    return ApiError(503, message, code="service_unavailable", type="server_error")


def unexpected(request_id: str) -> ApiError:
    """A bug: the log has the rest."""
    message = f"The server had an error while processing your request (request id {request_id}). Its log has the rest."
    return ApiError(500, message, code="internal_error", type="server_error")
