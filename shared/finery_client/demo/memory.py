"""Peak memory of a tree of processes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

_EVERY_SECONDS = 2.0


class MemoryMeter:
    """Samples, in a thread, the memory of this process and of those that ``pids`` names."""

    def __init__(self, pids: Callable[[], Iterable[int]]) -> None:
        self._pids = pids
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory-meter", daemon=True)
        self.peak_bytes = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self.sample()
            if self._ended.wait(_EVERY_SECONDS):
                return

    def sample(self) -> None:
        """Take one sample."""
        total = sum(memory(pid) for pid in {os.getpid(), *self._pids()})
        self.peak_bytes = max(self.peak_bytes, total)


def memory(pid: int) -> int:
    """Proportional set size in bytes: pages that several processes share are counted once in all. 0 if it is gone."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    lines = (line.split() for line in text.splitlines() if line.startswith("Pss:"))
    return sum(int(fields[1]) for fields in lines) * 1024
