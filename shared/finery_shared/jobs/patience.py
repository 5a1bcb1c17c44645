"""How long an attempt may be waited for, and how long it has been."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from finery_shared.jobs.rows import JobRecord


@dataclass(frozen=True)
class EngineSettings:
    """How patient the engine is. Times in seconds."""

    max_running_jobs: int = 1
    """0: a service to look at jobs with, and to cancel them. It begins none and leaves those under way alone."""
    max_attempts: int = 3
    """Attempts in a row whose worker dies without having got further than any before it, until the job fails."""
    poll_interval: float = 0.3
    start_again: float = 30.0
    """How long a job waits whose worker this machine could not start: for want of disk, memory or processes."""
    lease: float = 180.0
    """Silence after which a living worker counts as hung."""
    cancel_grace: float = 30.0
    """How long a worker may take to stop by itself, before SIGTERM and then SIGKILL."""
    exit_grace: float = 20.0
    """How long a worker may live after it handed in its outcome."""
    heartbeat: float = 10.0
    """Longest silence of a watch."""


class AttemptWatch:
    """What only the process that watches an attempt knows about it. ``clock``: seconds that never jump."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since: dict[str, float] = {}
        self._report: float | None = None
        self._heard = clock()
        self.signalled: set[str] = set()

    def waited(self, event: str) -> float:
        """Seconds since this was asked of that event for the first time."""
        now = self._clock()
        return now - self._since.setdefault(event, now)

    def silence(self, record: JobRecord) -> float:
        """Seconds without a new report, in this process's time: no worker is to blame for the service's absence."""
        if record.reported_at != self._report:
            self._report, self._heard = record.reported_at, self._clock()
        return self._clock() - self._heard
