"""Tells whoever watches of every change, without history: the last snapshot is the truth."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable

from finery_inference.deployments.model import Deployment, Snapshot


class Board:
    """Hands out snapshots of what ``read`` returns."""

    def __init__(self, read: Callable[[], tuple[Deployment, ...]], heartbeat: float = 1.0) -> None:
        self._read = read
        self._heartbeat = heartbeat
        # Microseconds since the epoch: a restarted process counts on from above what it ever told before.
        self._revision = time.time_ns() // 1000
        self._changed = asyncio.Event()
        self._draining = False
        self._closed = False

    @property
    def draining(self) -> bool:
        """Whether the process is on its way out."""
        return self._draining

    def snapshot(self) -> Snapshot:
        """Everything as it is now."""
        return Snapshot(self._revision, self._read(), self._draining)

    def changed(self) -> None:
        """Something is different: wake all who watch."""
        self._revision += 1
        event, self._changed = self._changed, asyncio.Event()
        event.set()

    def drain(self) -> None:
        """Tell that the process is on its way out."""
        self._draining = True
        self.changed()

    def close(self) -> None:
        """End every watch, after a last snapshot."""
        self._closed = True
        self.changed()

    async def watch(self) -> AsyncGenerator[Snapshot, None]:
        """A snapshot at once, after every change, and when there was none for ``heartbeat`` seconds."""
        while True:
            event, closed = self._changed, self._closed
            yield self.snapshot()
            if closed:
                return
            try:
                async with asyncio.timeout(self._heartbeat):
                    await event.wait()
            except TimeoutError:
                continue
