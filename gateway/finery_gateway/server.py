"""One gateway process: a socket, uvicorn on it, and the router behind."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import math
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import uvicorn
from fastapi import FastAPI

from finery_gateway.connection import Connection
from finery_gateway.health import Readiness
from finery_gateway.metrics import GatewayMetrics
from finery_gateway.routing.router import Router
from finery_gateway.tls import Certificate
from finery_shared.errors import FineryError, Reason
from finery_shared.log import Logger

BACKLOG = 2048
_UVICORN = logging.getLogger("uvicorn.error")


@dataclass(frozen=True)
class Address:
    """Where to listen."""

    host: str
    port: int


@dataclass(frozen=True)
class Serving:
    """How to serve: with which certificate (None: plain HTTP), and how to end. Times in seconds."""

    drain_seconds: float
    drain_delay_seconds: float = 0.0
    certificate: Certificate | None = None


class GatewayProcess:
    """Starts and stops everything in order."""

    def __init__(
        self,
        app: FastAPI,
        router: Router,
        listen: Callable[[], socket.socket],
        serving: Serving,
        readiness: Readiness,
        metrics: GatewayMetrics,
        log: Logger,
    ) -> None:
        self._router = router
        self._listen = listen
        self._how = serving
        self._readiness = readiness
        self._metrics = metrics
        self._handler = _ToStructlog(log)
        self._server = _Server(
            uvicorn.Config(
                app,
                http=Connection,
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                # Longer than clients keep their idle connections, so that none meets a closing one.
                timeout_keep_alive=75,
                timeout_graceful_shutdown=math.ceil(serving.drain_seconds),
                backlog=BACKLOG,
                ssl_certfile=serving.certificate.chain if serving.certificate else None,
                ssl_keyfile=serving.certificate.key if serving.certificate else None,
            )
        )
        self._serving: asyncio.Task[None] | None = None
        self._refreshing: asyncio.Task[None] | None = None

    async def start(self) -> str:
        """Listen and serve; returns "host:port" with the real port, or its https URL. Raises PORT_IN_USE."""
        listener = self._listen()
        _UVICORN.addHandler(self._handler)
        await self._router.start()
        self._serving = asyncio.create_task(self._server.serve([listener]))
        while not self._server.started and not self._serving.done():
            await asyncio.sleep(0.005)
        if self._serving.done():
            await self._serving
        self._refreshing = asyncio.create_task(self._metrics.backends.keep_fresh(), name="refresh metrics")
        return describe(listener, self._how.certificate)

    async def stop(self) -> None:
        """Turn readiness off; after the delay take nothing new, let running answers finish, then end them."""
        self._readiness.drain()
        if self._serving is not None:
            await asyncio.sleep(self._how.drain_delay_seconds)
            self._server.should_exit = True
            await self._serving
        if self._refreshing is not None:
            self._refreshing.cancel()
        await self._router.stop()
        _UVICORN.removeHandler(self._handler)


def describe(listener: socket.socket, certificate: Certificate | None = None) -> str:
    """Where a socket listens, as "host:port", or as a URL if it speaks HTTPS."""
    host, port = listener.getsockname()[:2]
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return where if certificate is None else f"https://{where}"


def bind(address: Address) -> socket.socket:
    """A listening socket. Raises PORT_IN_USE, also for an address that is not this machine's."""
    return _bind(address, shared=False)


def bind_shared(address: Address) -> socket.socket:
    """One of several listening sockets of this user's on one address, over which the kernel spreads connections."""
    return _bind(address, shared=True)


def _bind(address: Address, *, shared: bool) -> socket.socket:
    where = f"{address.host}:{address.port}"
    try:
        info = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, target = info[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise FineryError(Reason.INVALID_ARGUMENT, f"FINERY_GATEWAY_LISTEN={where}: {error.strerror}.") from error
    try:
        # A port in TIME_WAIT is free; one that another process listens on is not.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shared)
        listener.bind(target)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        why = "is in use by another process" if error.errno == errno.EADDRINUSE else f"can't be bound: {error.strerror}"
        message = f"{where} {why}. Set FINERY_GATEWAY_LISTEN to another HOST:PORT."
        raise FineryError(Reason.PORT_IN_USE, message) from error
    listener.setblocking(False)
    return listener


class _Server(uvicorn.Server):
    """Leaves signals to the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _ToStructlog(logging.Handler):
    """Passes uvicorn's warnings on."""

    def __init__(self, log: Logger) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Log one record."""
        self._log.log(record.levelno, record.getMessage(), part="uvicorn", exc_info=record.exc_info)
