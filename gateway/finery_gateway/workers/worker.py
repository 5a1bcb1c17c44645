"""A worker's side: it serves on a socket that it was given, and ends with the process that gave it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket

from finery_gateway.server import GatewayProcess

READY = b"ready\n"


class Worker:
    """A gateway process that tells its supervisor when it serves, and drains once that is gone."""

    def __init__(self, process: GatewayProcess, pipe: int) -> None:
        self._process = process
        self._pipe = pipe
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> str:
        """Serve; returns "host:port"."""
        address = await self._process.start()
        reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=self._pipe))
        writer.write(READY)
        self._watch = asyncio.create_task(self._end_with_supervisor(reader, writer))
        return address

    async def stop(self) -> None:
        """Let running answers finish, then end them."""
        await self._process.stop()
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)

    async def _end_with_supervisor(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            # It raises when the supervisor was gone before it could be told that this one serves.
            with contextlib.suppress(OSError):
                await reader.read()
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            writer.close()
