"""Where attempts run: a process of its own for each, in a session of its own, started by exec."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from finery_shared.home import process_start_time
from finery_shared.jobs.ranks import launch, meeting_place

TASK_ENV = "FINERY_WORKER_TASK"

_CONSIDERATE = {"GOMP_SPINCOUNT": "1000"}
"""Threads that wait spin for some ten microseconds, then give their core away. With endless spinning, two busy
processes on two cores take turns at doing nothing (a training step of one second was seen to take thirty); with none, a
small model's step takes a quarter longer, since threads are woken for each of its many short operations."""


@dataclass(frozen=True)
class Task:
    """All that a worker is told: which attempt it is, what to do, where to write, whom to tell."""

    job: str
    attempt: int
    secret: str
    spec: str
    """The serialized spec in base64."""
    staging: str
    """The only directory that the worker writes to."""
    endpoint: str
    """File in which the service that owns the job announces its address; read again after every lost connection."""
    cancelled: bool = False
    """The job was cancelled before: this attempt only hands in what earlier ones saved."""

    @property
    def spec_bytes(self) -> bytes:
        """The serialized spec."""
        return base64.b64decode(self.spec)

    def write(self, path: Path) -> None:
        """Write the task for its worker, readable by its owner alone, since it holds the secret."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            json.dump(asdict(self), file)

    @classmethod
    def read(cls, path: Path) -> Task:
        """Read a task."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


class Executor(Protocol):
    """Runs attempts somewhere. A handle is a string that a later process of the service understands too."""

    def submit(self, task: Task, environment: Mapping[str, str], ranks: int = 0) -> str:
        """Start the worker, or ``ranks`` processes that work together as one (see `ranks`); returns its handle."""

    def poll(self, handle: str) -> bool:
        """Whether the worker still runs."""

    def cancel(self, handle: str, *, kill: bool) -> None:
        """Ask the worker to end, or end it; nothing happens if it is gone."""

    def end(self, handle: str | None, task_name: str) -> str:
        """Make sure that the worker of an attempt is gone, whatever it does, and what it was told, which is secret.

        Says how it ended, as far as that is known.
        """

    def logs(self, task_name: str, lines: int) -> list[str]:
        """The last lines that the worker of an attempt printed."""

    def forget(self, job: str) -> None:
        """Remove what is left of all attempts of a job that has ended: what they printed."""


class LocalExecutor:
    """Workers on this machine: ``python -m <module>`` with the service's own interpreter; ranks by torchrun."""

    def __init__(self, module: str, state: Path, *, environment: Mapping[str, str] | None = None) -> None:
        self._module = module
        self._state = state
        self._environment = dict(environment or {})
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def submit(self, task: Task, environment: Mapping[str, str], ranks: int = 0) -> str:
        """Start the worker in a new session; what it prints goes to a file."""
        name = attempt_name(task.job, task.attempt)
        launcher, variables = launch(self._module, ranks, meeting_place(task.staging))
        task_file = self._task(name)
        task.write(task_file)
        log = self._log(name)
        log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with log.open("ab") as output:
            child = subprocess.Popen(
                [sys.executable, "-m", *launcher],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={
                    **_CONSIDERATE,
                    **variables,
                    **os.environ,
                    **self._environment,
                    **environment,
                    TASK_ENV: str(task_file),
                },
                start_new_session=True,
            )
        handle = f"{child.pid}:{process_start_time(child.pid) or 0}"
        self._children[handle] = child
        return handle

    def poll(self, handle: str) -> bool:
        """Whether the process lives; a pid that was given to another process since does not count."""
        child = self._children.get(handle)
        if child is not None:
            return child.poll() is None
        pid, start = _parse(handle)
        return start != 0 and process_start_time(pid) == start

    def cancel(self, handle: str, *, kill: bool) -> None:
        """Signal the worker's whole process group, which its session's leader gave its own pid."""
        pid, start = _parse(handle)
        if process_start_time(pid) != start:
            return
        try:
            os.killpg(pid, signal.SIGKILL if kill else signal.SIGTERM)
        except ProcessLookupError:
            return

    def end(self, handle: str | None, task_name: str) -> str:
        """Kill what is left of the worker; its exit status or signal. One that an earlier process started has none."""
        if handle is not None:
            self.cancel(handle, kill=True)
        self._task(task_name).unlink(missing_ok=True)
        if handle is None:
            return "was not started"
        child = self._children.pop(handle, None)
        status = None if child is None else child.wait()
        if status is None:
            return "ended while the service was down"
        return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"

    def logs(self, task_name: str, lines: int) -> list[str]:
        """The last lines of the worker's output."""
        try:
            text = self._log(task_name).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return []
        return text.splitlines()[-lines:]

    def forget(self, job: str) -> None:
        """Remove the logs, and tasks whose end nobody saw."""
        for path in (self._log(attempt_name(job, "*")), self._task(attempt_name(job, "*"))):
            for found in path.parent.glob(path.name):
                found.unlink(missing_ok=True)

    def _task(self, name: str) -> Path:
        return self._state / "tasks" / f"{name}.json"

    def _log(self, name: str) -> Path:
        return self._state / "logs" / f"{name}.log"


def attempt_name(job: str, attempt: int | str) -> str:
    """File name of an attempt, for instance "trainingJobs-3f2a-1"; with "*" the pattern of all attempts."""
    return f"{job.replace('/', '-')}-{attempt}"


def _parse(handle: str) -> tuple[int, int]:
    pid, _, start = handle.partition(":")
    return int(pid), int(start)
