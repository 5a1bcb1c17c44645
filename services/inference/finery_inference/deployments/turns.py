"""When engines start: one at a time, and none beside one that is on its way out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine

from finery_inference.generation.loaded import LoadedModel


class Turns:
    """Engines measure the memory that is free when they start: each waits for those before it, and for what ends."""

    def __init__(self) -> None:
        self._starting = asyncio.Lock()
        self._ending: set[asyncio.Task[None]] = set()

    async def start(self, start: Callable[[], Awaitable[LoadedModel]]) -> LoadedModel:
        """The started model. A caller that is cancelled leaves at once; the next start waits until this is undone."""
        starting = asyncio.create_task(self._in_turn(start))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            self._end(_undo(starting))
            raise

    async def end(self, model: LoadedModel) -> None:
        """Shut its engine down; the next start waits for that, even if the caller does not."""
        await asyncio.shield(self._end(model.engine.shutdown()))

    async def _in_turn(self, start: Callable[[], Awaitable[LoadedModel]]) -> LoadedModel:
        async with self._starting:
            while self._ending:
                await asyncio.wait(self._ending)
            return await start()

    def _end(self, ending: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(ending)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        return task


async def _undo(starting: asyncio.Task[LoadedModel]) -> None:
    starting.cancel()
    await asyncio.wait([starting])
    # It may have come to its end before it could be cancelled.
    if not starting.cancelled() and starting.exception() is None:
        await starting.result().engine.shutdown()
