"""A worker process, as the service sees it."""

from __future__ import annotations

import asyncio
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection

from finery_inference.engines.transformers.messages import Command, Report

WORKER = "finery_inference.engines.transformers.worker"


class WorkerProcess:
    """Sends commands and hands out reports, without ever holding up the event loop that made it.

    ``receive`` is called in that loop with each report, and with None once when the process has ended.
    """

    def __init__(self, receive: Callable[[Report | None], None]) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", WORKER, str(theirs.fileno())]
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        self._connection: Connection[Command, Report] = Connection(ours.detach())
        self._loop = asyncio.get_running_loop()
        self._receive = receive
        self._commands: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._send, self._read)]
        for thread in self._threads:
            thread.start()

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def send(self, command: Command) -> None:
        """Send a command; one to a process that has ended is lost."""
        self._commands.put(command)

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL; `end` is still to be called."""
        self._process.kill()

    async def end(self) -> None:
        """Kill the process and wait until nothing of it is left."""
        self._process.kill()
        await asyncio.to_thread(self._bury)

    def _bury(self) -> None:
        self._process.wait()
        self._commands.put(None)
        for thread in self._threads:
            thread.join()
        self._connection.close()

    def _send(self) -> None:
        while (command := self._commands.get()) is not None:
            try:
                self._connection.send(command)
            except OSError:
                return

    def _read(self) -> None:
        try:
            while True:
                self._pass_on(self._connection.recv())
        except (EOFError, OSError):
            self._pass_on(None)

    def _pass_on(self, report: Report | None) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._receive, report)
