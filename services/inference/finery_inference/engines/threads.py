"""Threads that don't keep the process from ending."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def in_daemon_thread(work: Callable[[], T], name: str) -> asyncio.Future[T]:
    """Run ``work`` in a daemon thread of its own; the future gets its result or exception.

    The default executor's threads are joined when the interpreter ends: what can't be interrupted must not run there.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(set_outcome: Callable[[], None]) -> None:
        if not future.done():
            set_outcome()

    def run() -> None:
        try:
            result = work()
        except BaseException as error:
            outcome = error  # the name of the except clause is gone when the loop gets to it
            _tell(loop, lambda: settle(lambda: future.set_exception(outcome)))
        else:
            _tell(loop, lambda: settle(lambda: future.set_result(result)))

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


async def made_in_daemon_thread(make: Callable[[], T], undo: Callable[[T], object], name: str) -> T:
    """What ``make`` makes in a daemon thread, which can't be interrupted.

    A call that is cancelled ends when ``undo`` has taken back what was made; cancelled again, it ends at once.
    """
    making = in_daemon_thread(make, name)
    try:
        return await asyncio.shield(making)
    except asyncio.CancelledError:
        await asyncio.wait([making])
        if making.exception() is None:
            await in_daemon_thread(lambda: undo(making.result()), f"undo {name}")
        raise


def _tell(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(callback)
