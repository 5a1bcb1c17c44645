"""The HTTP endpoint on which a gRPC service shows its figures, in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server

from finery_shared.errors import FineryError, Reason
from finery_shared.log import Logger


class MetricsEndpoint:
    """Answers every GET on HOST:PORT with a registry's figures; without ``listen`` it does nothing.

    Collectors are called in threads of the endpoint.
    """

    def __init__(self, listen: str | None, registry: CollectorRegistry, log: Logger) -> None:
        self._listen = listen
        self._registry = registry
        self._log = log
        self._running: tuple[WSGIServer, threading.Thread] | None = None

    def start(self, setting: str) -> str | None:
        """Begin to serve; returns "host:port" with the real port.

        Raises PORT_IN_USE, naming the setting that chooses another address.
        """
        if self._listen is None:
            return None
        host, _, port = self._listen.rpartition(":")
        try:
            self._running = start_http_server(int(port), host.strip("[]"), self._registry)
        except OSError as error:
            message = f"{self._listen} can't be bound: it is in use, or not an address of this machine. Set {setting}."
            raise FineryError(Reason.PORT_IN_USE, message, detail=str(error)) from error
        address = f"{host}:{self._running[0].server_port}"
        self._log.info("showing metrics", address=address)
        return address

    async def stop(self) -> None:
        """End serving; harmless when it never began."""
        if self._running is not None:
            # Not in the event loop, which the endpoint's threads may be asking.
            await asyncio.to_thread(_stop, *self._running)
            self._running = None


def _stop(server: WSGIServer, thread: threading.Thread) -> None:
    server.shutdown()
    server.server_close()
    thread.join()
