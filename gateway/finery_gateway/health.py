"""``GET /health``, ``GET /ready`` and ``GET /metrics``, for whoever watches the process."""

from __future__ import annotations

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import JSONResponse, Response

from finery_gateway.metrics import GatewayMetrics
from finery_gateway.routing.table import RoutingTable


class Readiness:
    """Whether new requests shall come to this process."""

    def __init__(self, table: RoutingTable) -> None:
        self._table = table
        self._draining = False

    def drain(self) -> None:
        """The process is on its way out."""
        self._draining = True

    def obstacle(self) -> str | None:
        """Why none shall come; None if they may."""
        if self._draining:
            return "The gateway is shutting down."
        error = self._table.readiness()
        return error.message if error is not None else None


def health_routes(table: RoutingTable, readiness: Readiness, metrics: GatewayMetrics) -> APIRouter:
    """The routes."""
    routes = APIRouter()

    @routes.get("/health", response_model=None)
    async def health() -> JSONResponse:
        """Say that the process lives."""
        return JSONResponse({"status": "alive"})

    @routes.get("/ready", response_model=None)
    async def ready() -> JSONResponse:
        """Say whether some model can be asked, or why none can."""
        obstacle = readiness.obstacle()
        if obstacle is not None:
            return JSONResponse({"status": "not ready", "reason": obstacle}, 503, {"retry-after": "2"})
        return JSONResponse({"status": "ready", "models": [s.model_id for s in table.models()]})

    @routes.get("/metrics", response_model=None)
    async def show_metrics() -> Response:
        """Show the figures of this gateway to Prometheus."""
        return Response(await metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return routes
