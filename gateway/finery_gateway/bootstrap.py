"""The gateway, wired: the only file that picks real implementations."""

from __future__ import annotations

from finery_gateway.app import Limits, create_app
from finery_gateway.auth import KeyRing
from finery_gateway.routing.names import Addresses
from finery_gateway.routing.router import Router, RouterTimes
from finery_gateway.routing.watcher import WatchTimes
from finery_gateway.server import Address, GatewayProcess
from finery_gateway.settings import Settings
from finery_shared.log import logger
from finery_shared.rpc import open_channel


def build(settings: Settings) -> GatewayProcess:
    """A gateway process, not started; must be called in its event loop."""
    log = logger("gateway")
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
    return GatewayProcess(app, router, Address(settings.host, settings.port), settings.drain_seconds, log)
