"""Ends what a command started, also when the command itself is killed.

Every process that a launch starts, and all that these start in turn, carry ``FINERY_LAUNCH=<id>`` in their environment;
workers have sessions of their own, so neither process groups nor parents would find them all. This file runs as a
program too, ``python -I -S guard.py ID``: it waits until its standard input ends, which it does when the command that
holds the other end is gone, however it went. It uses the standard library alone, so that it starts at once.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

MARK = "FINERY_LAUNCH"


def marked(launch_id: str) -> list[int]:
    """Pids of the living processes of a launch, this process excepted."""
    wanted = f"{MARK}={launch_id}".encode()
    return [pid for pid in _pids() if pid != os.getpid() and wanted in _environment(pid)]


def end_all(launch_id: str, grace: float) -> None:
    """SIGTERM to every process of a launch; SIGKILL, again and again, to those that live ``grace`` seconds later."""
    for pid in marked(launch_id):
        _signal(pid, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while (alive := marked(launch_id)) and time.monotonic() < deadline:
        time.sleep(0.05)
    while alive:
        for pid in alive:
            _signal(pid, signal.SIGKILL)
        time.sleep(0.05)
        alive = marked(launch_id)


def _pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def _environment(pid: int) -> list[bytes]:
    """The environment that a process was started with; empty for a zombie and for other users' processes."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def main() -> int:
    """Wait for the end of standard input, then end the launch that the first argument names."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    end_all(sys.argv[1], grace=10.0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
