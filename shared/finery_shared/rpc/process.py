"""The life of a service process: start, announce, serve until a signal, drain, stop."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from finery_shared.errors import FineryError
from finery_shared.home import announce, withdraw
from finery_shared.log import configure, logger


class Application(Protocol):
    """A wired service."""

    async def start(self) -> str:
        """Begin to serve; returns the address."""

    async def stop(self) -> None:
        """Drain and end."""


def run_process(
    service: str,
    build: Callable[[], Application],
    announcement: Callable[[], Path | None],
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> int:
    """Run one service until SIGTERM or SIGINT; the exit status. A start that fails is one line with the remedy."""
    configure(service)
    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(_serve(service, build, announcement))
    except FineryError as error:
        logger("process").error("can't start", reason=str(error.reason), error=error.message, detail=error.detail)
        return 1
    return 0


async def _serve(service: str, build: Callable[[], Application], announcement: Callable[[], Path | None]) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    application = build()
    path = announcement()
    log = logger("process")
    try:
        address = await application.start()
        if path is not None:
            announce(path, service, address)
        log.info("serving", address=address, python=sys.version.split()[0])
        await stopped.wait()
        log.info("stopping")
    finally:
        if path is not None:
            withdraw(path)
        await application.stop()
