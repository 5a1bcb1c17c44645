"""``GET /health`` and ``GET /ready``, for whoever watches the process."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import JSONResponse

from finery_gateway.routing.table import RoutingTable


def health_routes(table: RoutingTable) -> APIRouter:
    """The routes, answered from the routing table."""
    routes = APIRouter()

    @routes.get("/health", response_model=None)
    async def health() -> JSONResponse:
        """Say that the process lives."""
        return JSONResponse({"status": "alive"})

    @routes.get("/ready", response_model=None)
    async def ready() -> JSONResponse:
        """Say whether some model can be asked, or why none can."""
        error = table.readiness()
        if error is not None:
            return JSONResponse({"status": "not ready", "reason": error.message}, 503, {"retry-after": "2"})
        return JSONResponse({"status": "ready", "models": [s.model_id for s in table.models()]})

    return routes
