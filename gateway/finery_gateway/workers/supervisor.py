"""Starts the workers of one gateway, starts a dead one again, and ends all together."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from finery_gateway.server import Address, Serving, bind, bind_shared, describe
from finery_gateway.workers.worker import READY
from finery_shared.errors import FineryError, Reason
from finery_shared.log import Logger
from finery_shared.metrics import METRICS_DIRECTORY, forget_process


@dataclass(frozen=True)
class RestartTimes:
    """Back-off between the starts of a worker that dies again and again, in seconds."""

    first: float = 0.1
    longest: float = 10.0
    steady: float = 30.0
    """A worker that lived this long starts the count anew."""


class GatewayWorkers:
    """``count`` gateway processes on one address; the kernel spreads connections over them (SO_REUSEPORT, socket(7)).

    The sockets are made here and outlive a worker: connections that come while a dead one is started again wait for it.
    """

    def __init__(
        self,
        address: Address,
        count: int,
        serving: Serving,
        log: Logger,
        times: RestartTimes | None = None,
        command: Sequence[str] = (sys.executable, "-m", "finery_gateway"),
    ) -> None:
        self._address = address
        self._count = count
        self._serving = serving
        self._log = log
        self._times = times or RestartTimes()
        self._command = command
        self._listeners: list[socket.socket] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        # What the workers count they keep there, so that whichever is asked tells of all.
        self._figures = tempfile.TemporaryDirectory(prefix="finery-gateway-", ignore_cleanup_errors=True)

    async def start(self) -> str:
        """Serve; returns "host:port". Raises PORT_IN_USE, and INTERNAL when a worker can't start."""
        # A port is shared only among those that ask for it so: this finds out whether it is anybody's.
        with bind(self._address) as probe:
            address = Address(self._address.host, probe.getsockname()[1])
        self._listeners = [bind_shared(address) for _ in range(self._count)]
        ready = [asyncio.Event() for _ in self._listeners]
        self._tasks = [
            asyncio.create_task(self._keep(number, listener, event), name=f"worker {number}")
            for number, (listener, event) in enumerate(zip(self._listeners, ready, strict=True))
        ]
        waits = [asyncio.create_task(event.wait()) for event in ready]
        for wait, task in zip(waits, self._tasks, strict=True):
            await asyncio.wait([wait, task], return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                await task
        return describe(self._listeners[0], self._serving.certificate)

    async def stop(self) -> None:
        """Take no new connections, let running answers finish, then end them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for listener in self._listeners:
            listener.close()
        for process in self._processes.values():
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
        ends = [asyncio.create_task(process.wait()) for process in self._processes.values()]
        if ends:
            # A worker ends what is left by itself; one that can't is ended.
            patience = self._serving.drain_delay_seconds + self._serving.drain_seconds + 10
            await asyncio.wait(ends, timeout=patience)
            for process in self._processes.values():
                if process.returncode is None:
                    process.kill()
            await asyncio.gather(*ends)
        self._figures.cleanup()

    async def _keep(self, number: int, listener: socket.socket, ready: asyncio.Event) -> None:
        delay = self._times.first
        while True:
            started = time.monotonic()
            ours, theirs = socket.socketpair()
            try:
                with theirs:
                    process = await _spawn(self._command, listener, theirs, self._figures.name)
            except OSError as error:
                ours.close()
                if not ready.is_set():
                    raise FineryError(Reason.INTERNAL, f"A gateway worker can't be started: {error}.") from error
                # No memory, processes or descriptors are left for one; there may be later.
                self._log.error("worker can't be started, trying again", worker=number, error=str(error))
                delay = min(delay * 2, self._times.longest)
                await asyncio.sleep(delay)
                continue
            self._processes[number] = process
            reader, writer = await asyncio.open_connection(sock=ours)
            try:
                if await reader.readline() == READY:
                    ready.set()
                    self._log.info("worker serves", worker=number, worker_pid=process.pid)
                    await reader.read()
                status = await process.wait()
                del self._processes[number]
                forget_process(Path(self._figures.name), process.pid)
            finally:
                writer.close()
            if not ready.is_set():
                message = f"A gateway worker ended at its start with status {status}; its own log line says why."
                raise FineryError(Reason.INTERNAL, message)
            self._log.error("worker ended, starting another", worker=number, status=status)
            delay = self._times.first if time.monotonic() - started > self._times.steady else delay * 2
            await asyncio.sleep(min(delay, self._times.longest))


async def _spawn(
    command: Sequence[str], listener: socket.socket, pipe: socket.socket, figures: str
) -> asyncio.subprocess.Process:
    descriptors = (listener.fileno(), pipe.fileno())
    return await asyncio.create_subprocess_exec(
        *command,
        env=_environment(os.environ, *descriptors) | {METRICS_DIRECTORY: figures},
        pass_fds=descriptors,
        # Ctrl-C is for the supervisor, which drains the workers.
        start_new_session=True,
    )


def _environment(mine: Mapping[str, str], listener: int, pipe: int) -> dict[str, str]:
    kept = {name: value for name, value in mine.items() if name != "FINERY_GATEWAY_ANNOUNCE"}
    return kept | {"FINERY_GATEWAY_WORKER_LISTENER": str(listener), "FINERY_GATEWAY_WORKER_PIPE": str(pipe)}
