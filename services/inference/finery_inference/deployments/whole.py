"""Changes that are made wholly or not at all, whatever becomes of the caller who asked for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Whole:
    """Runs changes to their end. A call is cancelled as soon as its client leaves; half of a change helps nobody."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()
        self._named: dict[str, asyncio.Task[Any]] = {}

    async def run(self, change: Coroutine[Any, Any, T]) -> T:
        """The change's result. When the caller is cancelled, that is raised after the change's end."""
        return await self._end_of(self._begin(change))

    async def once(self, name: str, change: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """As `run`, and whoever asks by the same name meanwhile gets the outcome of the same change."""
        if name not in self._named:
            self._named[name] = self._begin(change())
            self._named[name].add_done_callback(lambda _: self._named.pop(name))
        return await self._end_of(self._named[name])

    async def finish(self) -> None:
        """Wait for all changes whose callers did not."""
        await asyncio.gather(*self._running, return_exceptions=True)

    def _begin(self, change: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(change)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def _end_of(self, task: asyncio.Task[T]) -> T:
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait([task])
            raise
