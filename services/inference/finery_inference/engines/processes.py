"""The operating system's view of the processes of one engine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class EngineProcesses:
    """An engine's core processes, which may have workers below them."""

    cores: tuple[psutil.Process, ...]
    computing: bool
    """Whether processor time shows that they compute."""

    @classmethod
    def of(cls, pids: Iterable[int], *, computing: bool) -> EngineProcesses:
        """Those of these numbers that still run."""
        cores = []
        for pid in pids:
            with suppress(psutil.NoSuchProcess):
                cores.append(psutil.Process(pid))
        return cls(tuple(cores), computing)

    def cpu_seconds(self) -> float:
        """Processor time of all of them until now; 0 if it shows nothing."""
        return sum(map(_cpu_seconds, self._all())) if self.computing else 0.0

    def kill(self) -> None:
        """SIGKILL to all of them, to workers first."""
        for process in self._all():
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def _all(self) -> Iterator[psutil.Process]:
        for core in self.cores:
            with suppress(psutil.NoSuchProcess):
                yield from core.children(recursive=True)
            yield core


def _cpu_seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)
