"""All backends of a gateway process: found, watched, and given up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import grpc

from finery.inference.v1 import inference_pb2
from finery_gateway.routing.backend import Backend
from finery_gateway.routing.generation import MOVABLE, Generation
from finery_gateway.routing.names import Addresses
from finery_gateway.routing.table import RoutingTable
from finery_gateway.routing.watcher import Watcher, WatchTimes
from finery_shared.errors import FineryError
from finery_shared.log import Logger
from finery_shared.rpc import from_rpc_error

_TOKENIZE_SECONDS = 30.0

OpenChannel = Callable[[str], grpc.aio.Channel]


@dataclass(frozen=True)
class RouterTimes:
    """How patient a router is, in seconds."""

    watch: WatchTimes = field(default_factory=WatchTimes)
    stale: float = 2.0
    """Silence after which a backend is the last resort."""
    request: float = 3600.0
    """Longest answer."""
    look_up: float = 5.0
    """Between two look-ups of names."""
    first_look: float = 1.0
    """How long ``start`` waits to have heard of every backend."""


class Router:
    """Starts generations on the backends at some addresses, and knows what they serve."""

    def __init__(self, addresses: Addresses, open_channel: OpenChannel, log: Logger, times: RouterTimes) -> None:
        self._addresses = addresses
        self._open_channel = open_channel
        self._log = log
        self._times = times
        self._watchers: dict[str, Watcher] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.table = RoutingTable(addresses.given, times.stale)

    async def start(self) -> None:
        """Watch all backends, and wait a moment to have heard of each."""
        await self._meet()
        if self._addresses.may_change:
            self._spawn(self._look_up_forever())
        waits = [asyncio.create_task(w.tried.wait()) for w in self._watchers.values()]
        if waits:
            _, late = await asyncio.wait(waits, timeout=self._times.first_look)
            for wait in late:
                wait.cancel()

    async def stop(self) -> None:
        """Stop watching and close the channels."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(self._part(address, grace=None) for address in list(self._watchers)))

    def generate(self, request: inference_pb2.GenerateRequest, request_id: str) -> Generation:
        """A generation, not begun yet."""
        return Generation(self.table, request, request_id, self._times.request)

    async def tokenize(self, request: inference_pb2.TokenizeRequest, request_id: str) -> inference_pb2.TokenizeResponse:
        """The tokens of a prompt, from the first backend that can tell. Raises FineryError."""
        tried: list[Backend] = []
        failure: FineryError | None = None
        while backend := self.table.choose(request.model, tried):
            tried.append(backend)
            try:
                return await backend.tokenize(request, (("x-request-id", request_id),), _TOKENIZE_SECONDS)
            except grpc.aio.AioRpcError as error:
                failure = from_rpc_error(error, f"The inference service at {backend.address}")
                if failure.reason not in MOVABLE:
                    raise failure from error
        raise failure or self.table.refusal(request.model)

    async def _look_up_forever(self) -> None:
        while True:
            await asyncio.sleep(self._times.look_up)
            await self._meet()

    async def _meet(self) -> None:
        """Begin to watch what is new, and let go of what has gone."""
        present = await self._addresses.look_up()
        for address in present:
            if address not in self._watchers:
                backend = Backend(address, self._open_channel(address), time.monotonic)
                self._watchers[address] = Watcher(backend, self._times.watch, self._log)
                self.table.add(backend)
                self._watchers[address].start()
        for address in self._watchers.keys() - set(present):
            self._spawn(self._part(address, grace=self._times.request))

    async def _part(self, address: str, grace: float | None) -> None:
        """Send a backend nothing new; its generations have ``grace`` seconds to end."""
        watcher = self._watchers.pop(address)
        self.table.remove(watcher.backend)
        await watcher.stop()
        await watcher.backend.close(grace)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
