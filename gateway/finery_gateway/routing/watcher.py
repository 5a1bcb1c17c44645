"""Keeps one backend's snapshot fresh."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import grpc

from finery.inference.v1 import deployments_pb2
from finery_gateway.routing import cancellation
from finery_gateway.routing.backend import Backend
from finery_shared.log import Logger


@dataclass(frozen=True)
class WatchTimes:
    """How patient a watcher is, in seconds."""

    lost: float = 10.0
    """Silence after which a process counts as dead. It sends a heartbeat about every second."""
    first_delay: float = 0.1
    """Pause before the first attempt to watch again; it doubles with each failure."""
    longest_delay: float = 1.0


class Watcher:
    """Follows WatchDeployments of one backend for as long as the gateway runs."""

    def __init__(self, backend: Backend, times: WatchTimes, log: Logger) -> None:
        self.backend = backend
        self._times = times
        self._log = log.bind(backend=backend.address)
        self._delay = times.first_delay
        self._task: asyncio.Task[None] | None = None
        self.tried = asyncio.Event()
        """Set once the backend was heard or found absent."""

    def start(self) -> None:
        """Begin to watch."""
        self._task = asyncio.create_task(self._run(), name=f"watch {self.backend.address}")

    async def stop(self) -> None:
        """End watching."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            reason = await self._follow()
            if self.backend.connected or not self.tried.is_set():
                self._log.warning("inference process lost", cause=reason)
            self.backend.lose()
            self.tried.set()
            await asyncio.sleep(self._delay)
            self._delay = min(self._delay * 2, self._times.longest_delay)

    async def _follow(self) -> str:
        """Watch until the stream ends; why it did."""
        call = self.backend.watch()
        try:
            while True:
                async with asyncio.timeout(self._times.lost):
                    snapshot = await call.read()
                if not isinstance(snapshot, deployments_pb2.WatchDeploymentsResponse):
                    return "the stream ended"
                if not self.backend.connected:
                    self._log.info("inference process found", models=[d.model_id for d in snapshot.deployments])
                self.backend.hear(snapshot)
                self._delay = self._times.first_delay
                self.tried.set()
        except TimeoutError:
            self.backend.abandon()
            return f"silent for {self._times.lost:g} s"
        except asyncio.CancelledError:
            if cancellation.is_own():
                raise
            return "it cancelled the watch"
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name}: {error.details()}"
        finally:
            call.cancel()
