"""Processes that a command starts: begun without a shell, watched, and ended without a trace."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from finery_client import guard
from finery_client.logs import last_words, open_log
from finery_shared.errors import FineryError, Reason
from finery_shared.home import announced

_FROM_OUTSIDE = frozenset({signal.SIGHUP, signal.SIGINT, signal.SIGKILL, signal.SIGTERM})
"""Signals that a program doesn't send itself when something is wrong with it."""


@dataclass(frozen=True)
class Program:
    """A service to run: ``announcement`` is the file in which it tells its address once it serves."""

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str]
    announcement: Path
    log: Path


class ServiceProcess:
    """A running program, in a session of its own."""

    def __init__(self, program: Program, env: Mapping[str, str]) -> None:
        self.program = program
        with open_log(program.log) as log:
            self._offset = log.tell()
            self._child = subprocess.Popen(
                program.command,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its process id, which is its session's and its process group's too."""
        return self._child.pid

    def address(self) -> str | None:
        """Where it serves; None while it starts, and once it has ended."""
        entry = announced(self.program.announcement)
        return entry.address if entry is not None and entry.pid == self.pid and self._child.poll() is None else None

    def wait_ready(self, timeout: float) -> str:
        """Wait until it serves; returns its address.

        Raises what the process itself said when it ended instead, and SERVICE_UNAVAILABLE after ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        while (address := self.address()) is None:
            if (death := self.death()) is not None:
                raise death
            if time.monotonic() > deadline:
                raise FineryError(
                    Reason.SERVICE_UNAVAILABLE,
                    f"The {self.program.name} did not start within {timeout:.0f} s. See {self.program.log}.",
                )
            time.sleep(0.02)
        return address

    def death(self) -> FineryError | None:
        """Why it ended, as an error for users; None while it lives."""
        status = self._child.poll()
        if status is None:
            return None
        words = last_words(self.program.log, self._offset)
        said, log = words.message.rstrip("."), f"Its log is {self.program.log}."
        if -status in _FROM_OUTSIDE:  # its last words are no reason then
            how = f"was ended by {signal.Signals(-status).name}, from outside or by the system when memory ran out"
            message = f"The {self.program.name} {how}. The last it wrote: {said}. {log} Start it again."
            return FineryError(Reason.SERVICE_UNAVAILABLE, message)
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
        return FineryError(words.reason, f"The {self.program.name} {how}: {said}. {log}")

    def terminate(self) -> None:
        """Ask it to stop."""
        if self._child.poll() is None:
            self._child.terminate()

    def wait(self, timeout: float) -> None:
        """Wait for its end; kill its process group when that takes longer than ``timeout`` seconds."""
        try:
            self._child.wait(max(timeout, 0.0))
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self._child.wait()


class Launch:
    """All processes of one command. They end with it, also when it is killed: see `finery_client.guard`."""

    def __init__(self) -> None:
        self._id = uuid.uuid4().hex
        self._processes: list[ServiceProcess] = []
        self._guard: subprocess.Popen[bytes] | None = None

    def start(self, program: Program) -> ServiceProcess:
        """Start a program; does not wait for it."""
        self._guard = self._guard or self._start_guard()
        # SPT_NOENV keeps processes that rename themselves from wiping the mark out of /proc/PID/environ.
        process = ServiceProcess(program, {**program.env, guard.MARK: self._id, "SPT_NOENV": "1"})
        self._processes.append(process)
        return process

    def forget(self, process: ServiceProcess) -> None:
        """Drop a process that has ended, before another one takes its place."""
        self._processes.remove(process)

    def pids(self) -> list[int]:
        """All living processes of this launch, those that its programs started included."""
        return guard.marked(self._id)

    def stop(self, grace: float = 15.0) -> None:
        """End everything: SIGTERM to each service, SIGKILL after ``grace`` seconds; then what these left behind.

        Ctrl-C while it waits ends the grace.
        """
        try:
            self._end(self._processes, grace)
        except KeyboardInterrupt:
            self._end(self._processes, 0.0)
        self._processes = []
        guard.end_all(self._id, grace=2.0)
        if self._guard is not None and self._guard.stdin is not None:
            self._guard.stdin.close()
            self._guard.wait()
            self._guard = None

    @staticmethod
    def _end(processes: Sequence[ServiceProcess], grace: float) -> None:
        deadline = time.monotonic() + grace
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(deadline - time.monotonic())

    def _start_guard(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", guard.__file__, self._id],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
