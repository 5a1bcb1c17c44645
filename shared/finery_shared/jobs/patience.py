"""How long an attempt has been waited for."""

from __future__ import annotations

from collections.abc import Callable

from finery_shared.jobs.rows import JobRecord


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
