"""What is told of the inference processes behind the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Gauge

from finery_gateway.routing.backend import Backend
from finery_shared.metrics import shares_figures

REFRESH_SECONDS = 1.0


class BackendMetrics:
    """The backends as this process sees them; ``refresh`` writes it down.

    Of several processes that serve one port, the worst view is shown, and the sum of what is in flight.
    """

    def __init__(self, registry: CollectorRegistry, backends: Callable[[], Sequence[Backend]]) -> None:
        self._backends = backends
        self._connected = Gauge(
            "finery_gateway_backend_connected",
            "1 while the inference process is heard, else 0.",
            ["backend"],
            registry=registry,
            multiprocess_mode="livemin",
        )
        self._in_flight = Gauge(
            "finery_gateway_backend_in_flight",
            "Generations that run there for this gateway.",
            ["backend"],
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._silence = Gauge(
            "finery_gateway_backend_silence_seconds",
            "Time since the inference process was last heard, +Inf if it never was.",
            ["backend"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._known: set[str] = set()

    def refresh(self) -> None:
        """Bring the gauges up to date."""
        present = {backend.address: backend for backend in self._backends()}
        for address, backend in present.items():
            self._connected.labels(address).set(backend.connected)
            self._in_flight.labels(address).set(backend.in_flight)
            self._silence.labels(address).set(backend.silence)
        for address in self._known - present.keys():
            self._forget(address)
        self._known = set(present)

    async def keep_fresh(self) -> None:
        """Refresh for ever: another process may be asked for this one's figures."""
        while True:
            self.refresh()
            await asyncio.sleep(REFRESH_SECONDS)

    def _forget(self, address: str) -> None:
        for gauge in (self._connected, self._in_flight, self._silence):
            if shares_figures():  # what stands in the shared files can't be removed; NaN sets off no alert
                gauge.labels(address).set(float("nan"))
            else:
                gauge.remove(address)
