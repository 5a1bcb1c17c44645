"""Progress of an attempt: pace and time left of a phase, share of the whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from finery.jobs.v1.jobs_pb2 import JobProgress


class ProgressMeter:
    """Turns (step, total, phase) into progress messages. ``clock`` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._shares: dict[str, float] = {}
        self._phase = ""
        self._began = (0.0, 0)

    def plan(self, phases: Mapping[str, float]) -> None:
        """Set the phases of the attempt, in order, with their weights."""
        whole = sum(phases.values())
        self._shares = {name: weight / whole for name, weight in phases.items()}

    def update(self, step: int, total: int, phase: str) -> JobProgress:
        """The message for a step of a phase; the time left goes by the pace since the phase began."""
        if phase != self._phase:
            self._phase, self._began = phase, (self._clock(), step)
        message = JobProgress(phase=phase, step=step, total=total, fraction=self._fraction(step, total, phase))
        began, first = self._began
        if total > 0 and first < step:
            message.eta.FromMilliseconds(int(1000 * (self._clock() - began) / (step - first) * max(0, total - step)))
        return message

    def _fraction(self, step: int, total: int, phase: str) -> float:
        share = min(1.0, step / total) if total else 0.0
        if phase not in self._shares:
            return share
        names = list(self._shares)
        before = sum(self._shares[name] for name in names[: names.index(phase)])
        return min(1.0, before + self._shares[phase] * share)
