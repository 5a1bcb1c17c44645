"""Engine processes end with the service that started them, even when it was killed.

vLLM's engine core waits for its service forever. vLLM loads entry points of the group ``vllm.general_plugins`` in each
of its processes: ours is `watch_owner`.
"""

from __future__ import annotations

import os
import select
import signal
import threading

OWNER = "FINERY_ENGINE_OWNER"
"""Variable with the pid of the service that owns the engine processes."""


def watch_owner() -> None:
    """Kill this process as soon as its owner is gone; nothing in the owner itself, or where no owner is named."""
    owner = os.environ.get(OWNER)
    if owner is None or int(owner) == os.getpid():
        return
    try:
        descriptor = os.pidfd_open(int(owner))
    except ProcessLookupError:
        _end()
    threading.Thread(target=_wait, args=(descriptor,), name="engine owner", daemon=True).start()


def _wait(descriptor: int) -> None:
    select.select([descriptor], [], [])
    _end()


def _end() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
