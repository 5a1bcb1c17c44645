"""The gateway, wired: the only file that picks real implementations."""

from __future__ import annotations

import socket
from collections.abc import Callable

from finery_gateway.app import Limits, create_app
from finery_gateway.auth import KeyRing
from finery_gateway.routing.names import Addresses
from finery_gateway.routing.router import Router, RouterTimes
from finery_gateway.routing.watcher import WatchTimes
from finery_gateway.server import Address, GatewayProcess, bind
from finery_gateway.settings import Settings
from finery_gateway.workers.supervisor import GatewayWorkers
from finery_gateway.workers.worker import Worker
from finery_shared.log import Logger, logger
from finery_shared.rpc import open_channel


def build(settings: Settings) -> GatewayProcess | GatewayWorkers | Worker:
    """A gateway, not started: one process, or several, or one of those. Must be called in its event loop."""
    log = logger("gateway")
    address = Address(settings.host, settings.port)
    if settings.worker_listener is not None and settings.worker_pipe is not None:
        listener = socket.socket(fileno=settings.worker_listener)
        return Worker(_process(settings, lambda: listener, log), settings.worker_pipe)
    if settings.workers > 1:
        return GatewayWorkers(address, settings.workers, settings.drain_seconds, log)
    return _process(settings, lambda: bind(address), log)


def _process(settings: Settings, listen: Callable[[], socket.socket], log: Logger) -> GatewayProcess:
    times = RouterTimes(
        WatchTimes(lost=settings.lost_seconds),
        settings.stale_seconds,
        settings.request_seconds,
        settings.look_up_seconds,
    )
    router = Router(Addresses(settings.inference), open_channel, log, times)
    keys = KeyRing([key.get_secret_value() for key in settings.api_keys])
    limits = Limits(settings.body_bytes, settings.keepalive_seconds)
    app = create_app(router, log, keys, limits, settings.cors_origins)
    return GatewayProcess(app, router, listen, settings.drain_seconds, log)
