"""The gateway, wired: the only file that picks real implementations."""

from __future__ import annotations

import socket
from collections.abc import Callable

from finery_gateway.app import Access, Limits, create_app
from finery_gateway.auth import KeyRing, Keys
from finery_gateway.health import Readiness
from finery_gateway.key_file import KeyFile
from finery_gateway.metrics import GatewayMetrics
from finery_gateway.openai.stream import StreamTimes
from finery_gateway.routing.names import Addresses
from finery_gateway.routing.router import Router, RouterTimes
from finery_gateway.routing.watcher import WatchTimes
from finery_gateway.server import Address, GatewayProcess, Serving, bind
from finery_gateway.settings import Settings
from finery_gateway.tls import Certificate
from finery_gateway.workers.supervisor import GatewayWorkers
from finery_gateway.workers.worker import Worker
from finery_shared.log import Logger, logger
from finery_shared.rpc import open_channel


def build(settings: Settings) -> GatewayProcess | GatewayWorkers | Worker:
    """A gateway, not started: one process, or several, or one of those. Must be called in its event loop.

    Raises INVALID_ARGUMENT for files that can't be used.
    """
    log = logger("gateway")
    address = Address(settings.host, settings.port)
    serving = _serving(settings)
    if serving.certificate is not None:
        serving.certificate.check()
    if settings.worker_listener is not None and settings.worker_pipe is not None:
        listener = socket.socket(fileno=settings.worker_listener)
        return Worker(_process(settings, lambda: listener, serving, log), settings.worker_pipe)
    if settings.workers > 1:
        return GatewayWorkers(address, settings.workers, serving, log)
    return _process(settings, lambda: bind(address), serving, log)


def _process(settings: Settings, listen: Callable[[], socket.socket], serving: Serving, log: Logger) -> GatewayProcess:
    times = RouterTimes(
        WatchTimes(lost=settings.lost_seconds),
        settings.stale_seconds,
        settings.request_seconds,
        settings.look_up_seconds,
    )
    router = Router(Addresses(settings.inference), lambda address: open_channel(address, settings.rpc), log, times)
    readiness, metrics = Readiness(router.table), GatewayMetrics(router.table)
    access = Access(_keys(settings, log), settings.cors_origins, settings.metrics_guarded)
    limits = Limits(settings.body_bytes, StreamTimes(settings.keepalive_seconds, settings.send_seconds))
    app = create_app(router, log, access, limits, readiness, metrics)
    return GatewayProcess(app, router, listen, serving, readiness, metrics, log)


def _keys(settings: Settings, log: Logger) -> Keys | None:
    given = tuple(key.get_secret_value() for key in settings.api_keys)
    if settings.api_keys_file is not None:
        return KeyFile(settings.api_keys_file, given, log)
    return KeyRing(given) if given else None


def _serving(settings: Settings) -> Serving:
    cert, key = settings.tls_cert, settings.tls_key
    certificate = Certificate(cert, key) if cert is not None and key is not None else None
    return Serving(settings.drain_seconds, settings.drain_delay_seconds, certificate)
