"""The HTTP endpoint on which a gRPC service shows its figures, in a thread of its own."""

from __future__ import annotations

import threading
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server

from finery_shared.errors import FineryError, Reason


class MetricsEndpoint:
    """Answers every GET on HOST:PORT with a registry's figures. Collectors are called in threads of the endpoint."""

    def __init__(self, listen: str, registry: CollectorRegistry) -> None:
        host, _, port = listen.rpartition(":")
        self._host = host
        self._port = int(port)
        self._registry = registry
        self._running: tuple[WSGIServer, threading.Thread] | None = None

    def start(self, setting: str) -> str:
        """Begin to serve; returns "host:port" with the real port.

        Raises PORT_IN_USE, naming the setting that chooses another address.
        """
        try:
            self._running = start_http_server(self._port, self._host.strip("[]"), self._registry)
        except OSError as error:
            where = f"{self._host}:{self._port}"
            message = f"{where} can't be bound: it is in use, or not an address of this machine. Set {setting}."
            raise FineryError(Reason.PORT_IN_USE, message, detail=str(error)) from error
        return f"{self._host}:{self._running[0].server_port}"

    def stop(self) -> None:
        """End serving; harmless when it never began."""
        if self._running is not None:
            server, thread = self._running
            server.shutdown()
            server.server_close()
            thread.join()
            self._running = None
