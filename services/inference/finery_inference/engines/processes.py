"""The operating system's view of the processes of one engine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class EngineProcesses:
    """An engine's core processes, and the workers that they have had below them since the engine runs."""

    cores: tuple[psutil.Process, ...]
    workers: tuple[psutil.Process, ...]
    computing: bool
    """Whether processor time shows that they compute."""

    @classmethod
    def of(cls, pids: Iterable[int], *, computing: bool) -> EngineProcesses:
        """Those of these numbers that still run."""
        cores = []
        for pid in pids:
            with suppress(psutil.NoSuchProcess):
                cores.append(psutil.Process(pid))
        return cls(tuple(cores), tuple(_below(cores)), computing)

    def cpu_seconds(self) -> float:
        """Processor time of all of them until now; 0 if it shows nothing.

        Asked many times a second, so it must not look for workers: that reads every process of the machine.
        """
        return sum(map(_cpu_seconds, self.cores + self.workers)) if self.computing else 0.0

    def kill(self) -> None:
        """SIGKILL to all of them and to whatever else they have started, to workers first."""
        for process in (*_below(self.cores), *self.workers, *self.cores):
            with suppress(psutil.NoSuchProcess):
                process.kill()


def _below(cores: Iterable[psutil.Process]) -> Iterator[psutil.Process]:
    for core in cores:
        with suppress(psutil.NoSuchProcess):
            yield from core.children(recursive=True)


def _cpu_seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)
