"""The HTTP application: routes, middleware, and one shape for every error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from finery_gateway.auth import ApiKeyGuard, Keys
from finery_gateway.health import Readiness, health_routes
from finery_gateway.metrics import GatewayMetrics
from finery_gateway.openai.chat import chat_routes
from finery_gateway.openai.completions import completion_routes
from finery_gateway.openai.errors import ApiError, from_finery, from_http
from finery_gateway.openai.models import model_routes
from finery_gateway.openai.stream import StreamTimes
from finery_gateway.openai.tokenize import tokenize_routes
from finery_gateway.request_log import CLIENT_CLOSED_REQUEST, RequestLog, record_of
from finery_gateway.routing.router import Router
from finery_shared.errors import FineryError
from finery_shared.log import Logger


@dataclass(frozen=True)
class Limits:
    """Sizes and times of the HTTP side."""

    body_bytes: int = 16 * 2**20
    stream: StreamTimes = field(default_factory=StreamTimes)


@dataclass(frozen=True)
class Access:
    """Who may call: holders of a key of ``keys`` (None: everybody), and pages of ``cors_origins``."""

    keys: Keys | None = None
    cors_origins: Sequence[str] = ()
    metrics_guarded: bool = False
    """Whether the figures need a key too."""


def create_app(
    router: Router, log: Logger, access: Access, limits: Limits, readiness: Readiness, metrics: GatewayMetrics
) -> FastAPI:
    """The application over a router's backends. The caller starts and stops the router."""
    guards: list[Middleware] = []
    if access.cors_origins:
        # Before the keys: a browser asks whether it may send one without sending it.
        guards.append(_cors(access.cors_origins))
    if access.keys is not None:
        guards.append(Middleware(ApiKeyGuard, keys=access.keys, metrics_guarded=access.metrics_guarded))
    # The same FastAPI, whose documentation page loads nothing from other hosts.
    app = FastAPIOffline(
        title="Finery",
        redoc_url=None,
        description="The OpenAI API over Finery's inference services.",
        redirect_slashes=False,
        middleware=[Middleware(RequestLog, log=log, observer=metrics.requests), *guards],
        exception_handlers={
            ApiError: _api_error,
            FineryError: _finery_error,
            HTTPException: _http_error,
            ClientDisconnect: _client_gone,
        },
    )
    app.include_router(health_routes(router.table, readiness, metrics))
    app.include_router(model_routes(router.table))
    app.include_router(chat_routes(router, limits.body_bytes, limits.stream))
    app.include_router(completion_routes(router, limits.body_bytes, limits.stream))
    app.include_router(tokenize_routes(router, limits.body_bytes))
    return app


def _cors(origins: Sequence[str]) -> Middleware:
    """Lets pages of `origins` call the API from a browser. No cookies: callers show a key, if any."""
    return Middleware(
        CORSMiddleware,
        allow_origins=list(origins),
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=["x-request-id", "retry-after"],
    )


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    record_of(request).note(error=error.message)
    return error.response()


async def _finery_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, FineryError)
    record = record_of(request)
    record.note(reason=str(error.reason), error=error.message, detail=error.detail)
    return from_finery(error, record.parameters).response()


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return from_http(request, error).response()


async def _client_gone(request: Request, error: Exception) -> Response:
    record_of(request).client_left()
    return Response(status_code=CLIENT_CLOSED_REQUEST)
