"""All backends of a gateway process, opened and closed together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import grpc

from finery.inference.v1 import inference_pb2
from finery_gateway.routing.backend import Backend
from finery_gateway.routing.generation import Generation
from finery_gateway.routing.table import RoutingTable
from finery_gateway.routing.watcher import Watcher, WatchTimes
from finery_shared.log import Logger

OpenChannel = Callable[[str], grpc.aio.Channel]


class Router:
    """Starts generations on the backends at some addresses, and knows what they serve."""

    def __init__(
        self,
        addresses: Sequence[str],
        open_channel: OpenChannel,
        log: Logger,
        times: WatchTimes,
        stale_seconds: float = 2.0,
        request_seconds: float = 3600.0,
    ) -> None:
        self._backends = [Backend(a, open_channel(a), time.monotonic) for a in addresses]
        self._watchers = [Watcher(b, times, log) for b in self._backends]
        self._request_seconds = request_seconds
        self.table = RoutingTable(self._backends, stale_seconds)

    async def start(self, patience: float = 1.0) -> None:
        """Watch all backends, and wait up to ``patience`` seconds to have heard of each."""
        for watcher in self._watchers:
            watcher.start()
        waits = [asyncio.create_task(w.tried.wait()) for w in self._watchers]
        _, late = await asyncio.wait(waits, timeout=patience)
        for wait in late:
            wait.cancel()

    async def stop(self) -> None:
        """Stop watching and close the channels."""
        await asyncio.gather(*(w.stop() for w in self._watchers))
        await asyncio.gather(*(b.close() for b in self._backends))

    def generate(self, request: inference_pb2.GenerateRequest, request_id: str) -> Generation:
        """A generation, not begun yet."""
        return Generation(self.table, request, request_id, self._request_seconds)
