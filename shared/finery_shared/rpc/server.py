"""The one way in which Finery makes gRPC servers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry

from finery_shared.errors import FineryError, Reason
from finery_shared.log import Logger
from finery_shared.rpc.channel import OPEN
from finery_shared.rpc.interceptor import CallInterceptor
from finery_shared.rpc.metrics import CallMetrics
from finery_shared.rpc.options import SERVER_OPTIONS
from finery_shared.rpc.security import RpcSecurity
from finery_shared.rpc.token import TokenGuard


@dataclass(frozen=True)
class Servicer:
    """One service of a server: its full name, the generated add function, the implementation."""

    name: str
    add: Callable[[Any, Any], None]
    implementation: Any
    serving: bool = True
    """Health at the start; a service that isn't ready yet sets it later by ``RpcServer.set_serving``."""


class RpcServer:
    """A ``grpc.aio`` server with health by service name, reflection, request ids, error mapping, figures and drain.

    ``registry`` takes the figures of its calls. ``security`` says who may call: health is told to everybody.
    """

    def __init__(
        self,
        listen: str,
        servicers: Sequence[Servicer],
        log: Logger,
        registry: CollectorRegistry | None = None,
        security: RpcSecurity = OPEN,
    ) -> None:
        self._listen = listen
        self._servicers = servicers
        self._credentials = security.server_credentials()
        interceptors: list[grpc.aio.ServerInterceptor] = [
            CallInterceptor(log, CallMetrics(registry or CollectorRegistry()))
        ]
        if security.token:
            interceptors.append(TokenGuard(security.token))
        self._server = grpc.aio.server(interceptors=interceptors, options=SERVER_OPTIONS)
        self._health = health.aio.HealthServicer()
        for servicer in servicers:
            servicer.add(servicer.implementation, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = [s.name for s in servicers]
        reflection.enable_server_reflection((*names, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)

    async def start(self, setting: str = "listen") -> str:
        """Bind and serve; returns "host:port" with the real port.

        Raises PORT_IN_USE, naming the setting that chooses another address.
        """
        host = self._listen.rpartition(":")[0]
        try:
            port = self._add_port()
        except RuntimeError as error:
            message = f"{self._listen} can't be bound: it is in use, or not an address of this machine. Set {setting}."
            raise FineryError(Reason.PORT_IN_USE, message, detail=str(error)) from error
        await self._server.start()
        for servicer in self._servicers:
            await self.set_serving(servicer.name, servicer.serving)
        await self.set_serving("", True)
        return f"{host}:{port}"

    def _add_port(self) -> int:
        if self._credentials is None:
            return self._server.add_insecure_port(self._listen)
        return self._server.add_secure_port(self._listen, self._credentials)

    async def set_serving(self, service: str, serving: bool) -> None:
        """Tell the health of one service by its full name; "" is the process."""
        response = health_pb2.HealthCheckResponse
        await self._health.set(service, response.SERVING if serving else response.NOT_SERVING)

    async def stop(self, grace: float) -> None:
        """Turn readiness off, refuse new calls, let running ones finish for ``grace`` seconds, then end them."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace)
