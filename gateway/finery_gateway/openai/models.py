"""``GET /v1/models`` and ``GET /v1/models/{id}``."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import APIRouter
from starlette.responses import Response

from finery_gateway.openai import examples
from finery_gateway.openai.documented import answers
from finery_gateway.routing.served import Served
from finery_gateway.routing.table import RoutingTable


def model_routes(table: RoutingTable) -> APIRouter:
    """The routes, answered from the routing table."""
    routes = APIRouter()

    @routes.get("/v1/models", response_model=None, responses=answers(examples.MODELS, 401))
    async def list_models() -> Response:
        """List the models and adapters that can be asked, bases before their adapters, oldest first."""
        return _json({"object": "list", "data": [_model(served) for served in table.models()]})

    # Model ids may hold slashes.
    @routes.get("/v1/models/{model:path}", response_model=None, responses=answers(examples.MODEL, 401, 404))
    async def get_model(model: str) -> Response:
        """Describe one model."""
        return _json(_model(table.find(model)))

    return routes


def _model(served: Served) -> dict[str, Any]:
    return {
        "id": served.model_id,
        "object": "model",
        "created": int(served.created),
        "owned_by": "finery",
        # vLLM's extensions.
        "root": served.root,
        "parent": served.parent,
        "max_model_len": served.max_model_len,
    }


def _json(value: dict[str, Any]) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")
