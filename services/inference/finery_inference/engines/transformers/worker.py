"""``python -m finery_inference.engines.transformers.worker FD``: one model, asked through the socket of that number.

The process ends when the other end of its socket is gone, however its service ended.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection

from finery_inference.engines.protocol import EngineRequest
from finery_inference.engines.transformers.messages import (
    Abort,
    Alive,
    Check,
    Command,
    Load,
    NotLoaded,
    Ready,
    Report,
    RequestFailed,
)
from finery_shared.errors import Reason


class Socket:
    """The service, as the worker sees it."""

    def __init__(self, descriptor: int) -> None:
        self._connection: Connection[Report, Command] = Connection(descriptor)
        self._sending = threading.Lock()
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        threading.Thread(target=self._receive, name="commands", daemon=True).start()

    def tell(self, report: Report) -> None:
        """Send; ends the process if nobody listens."""
        try:
            with self._sending:
                self._connection.send(report)
        except OSError:
            _end()

    def next(self) -> Command:
        """Wait for a command."""
        return self._commands.get()

    def _receive(self) -> None:
        # In a thread from the start: the service may go while a model loads.
        try:
            while True:
                self._commands.put(self._connection.recv())
        except (EOFError, OSError):
            _end()


def main(descriptor: int) -> None:
    """Load a model and serve it."""
    # Ctrl-C in a terminal goes to every process there; when the service is done, it ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    socket = Socket(descriptor)
    command = socket.next()
    assert isinstance(command, Load)
    try:
        from finery_inference.engines.transformers.model import load

        loaded = load(command, socket.tell)
    except Exception as error:  # whatever it is, the service has to hear of it
        said = " ".join(str(error).split())[:500] or type(error).__name__
        message = f"transformers could not load {command.config.model}: {said}"
        socket.tell(NotLoaded(Reason.ENGINE_FAILED, message, repr(error)))
        sys.exit(1)
    loaded.batch.start()
    threading.Thread(target=_end_after, args=(loaded.batch.follow,), name="outcomes", daemon=True).start()
    socket.tell(Ready(loaded.max_model_len, loaded.vocab_size, loaded.on_gpu))
    while True:
        match socket.next():
            case EngineRequest() as request:
                try:
                    loaded.batch.add(request)
                except Exception as error:  # one request must not end all others
                    socket.tell(RequestFailed(request.request_id, repr(error)))
            case Abort(request_id):
                loaded.batch.abort(request_id)
            case Check():
                socket.tell(Alive())


def _end_after(follow: Callable[[], None]) -> None:
    """A batch that generates no more is of no use: the service starts a new process."""
    follow()
    _end()


def _end() -> None:
    os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]))
