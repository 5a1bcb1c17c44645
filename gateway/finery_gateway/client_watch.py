"""Notices at once that a client has left."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from starlette.types import Receive


class ClientWatch:
    """While entered: calls ``on_gone`` when the client disconnects, ``on_tick`` every ``seconds`` until then.

    The request's body must have been read: from then on the server sends nothing but the disconnect.
    """

    def __init__(
        self,
        receive: Receive,
        on_gone: Callable[[], None],
        seconds: float | None = None,
        on_tick: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._receive = receive
        self._on_gone = on_gone
        self._seconds = seconds
        self._on_tick = on_tick
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks.append(asyncio.create_task(self._wait()))
        if self._on_tick is not None:
            self._tasks.append(asyncio.create_task(self._tick(self._on_tick)))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            continue
        self._on_gone()

    async def _tick(self, on_tick: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(self._seconds or 0)
            await on_tick()
