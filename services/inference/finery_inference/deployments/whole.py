"""Changes that are made wholly or not at all, whatever becomes of the caller who asked for them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Whole:
    """Runs changes to their end. A call is cancelled as soon as its client leaves; half of a change helps nobody."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    async def run(self, change: Coroutine[Any, Any, T]) -> T:
        """The change's result. When the caller is cancelled, that is raised after the change's end."""
        task = asyncio.create_task(change)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait([task])
            raise

    async def finish(self) -> None:
        """Wait for all changes whose callers did not."""
        await asyncio.gather(*self._running, return_exceptions=True)
