"""The inference process: its server, its health, its end."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing

from finery_inference.deployments.manager import DeploymentManager
from finery_inference.deployments.model import State
from finery_inference.generation.generator import Generator
from finery_shared.jobs.ownership import OwnerLock
from finery_shared.log import Logger
from finery_shared.metrics import MetricsEndpoint
from finery_shared.rpc import RpcServer

DEPLOYMENT_SERVICE = "finery.inference.v1.DeploymentService"
INFERENCE_SERVICE = "finery.inference.v1.InferenceService"


class InferenceProcess:
    """Serves until it is stopped; `finery_shared.rpc.process` runs it."""

    def __init__(
        self,
        lock: OwnerLock,
        server: RpcServer,
        manager: DeploymentManager,
        generator: Generator,
        metrics: MetricsEndpoint,
        drain_seconds: float,
        log: Logger,
    ) -> None:
        self._lock = lock
        self._server = server
        self._manager = manager
        self._generator = generator
        self._metrics = metrics
        self._drain_seconds = drain_seconds
        self._log = log
        self._health: asyncio.Task[None] | None = None

    async def start(self) -> str:
        """Serve, and begin to load what is stored; returns the address. Raises ALREADY_RUNNING, PORT_IN_USE."""
        self._lock.acquire()
        self._metrics.start("FINERY_INFERENCE_METRICS_LISTEN")
        address = await self._server.start("FINERY_INFERENCE_LISTEN")
        self._health = asyncio.create_task(self._follow_health(), name="health")
        await self._manager.restore()
        return address

    async def stop(self) -> None:
        """Readiness off, let running requests finish, then end them and the engines."""
        self._manager.drain()
        deadline = time.monotonic() + self._drain_seconds
        while self._generator.running and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        if self._generator.running:
            self._log.warning("requests are cut off", running=self._generator.running)
        self._manager.end_watches()
        await self._server.stop(grace=0.5)
        if self._health is not None:
            await self._health
        await self._manager.stop()
        await self._metrics.stop()
        self._lock.release()

    async def _follow_health(self) -> None:
        """InferenceService serves while some deployment is READY and the process is not on its way out."""
        async with aclosing(self._manager.watch()) as snapshots:
            async for snapshot in snapshots:
                ready = any(deployment.state is State.READY for deployment in snapshot.deployments)
                await self._server.set_serving(INFERENCE_SERVICE, ready and not snapshot.draining)
