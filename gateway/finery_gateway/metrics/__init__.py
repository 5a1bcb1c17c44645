"""What the gateway counts, for Prometheus."""

from __future__ import annotations

import asyncio

from prometheus_client import CollectorRegistry

from finery_gateway.metrics.backends import BackendMetrics
from finery_gateway.metrics.requests import RequestMetrics
from finery_gateway.routing.table import RoutingTable
from finery_shared.metrics import exposition


class GatewayMetrics:
    """All figures of one gateway process."""

    def __init__(self, table: RoutingTable) -> None:
        self._registry = CollectorRegistry()
        self.requests = RequestMetrics(self._registry, table.knows)
        self.backends = BackendMetrics(self._registry, lambda: table.backends)

    async def text(self) -> bytes:
        """In Prometheus' text format; those of all processes that serve the port together, if there are several."""
        self.backends.refresh()
        # Many series, or many processes' files, take long enough to be felt in every stream.
        return await asyncio.to_thread(exposition, self._registry)
