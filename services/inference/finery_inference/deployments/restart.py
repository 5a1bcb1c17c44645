"""When a failed engine is started again."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RestartPolicy:
    """Exponential back-off, in seconds, and an end to it."""

    first: float = 0.5
    longest: float = 30.0
    attempts: int = 5
    """Failures in a row after which a deployment stays FAILED."""
    steady: float = 60.0
    """An engine that lived this long starts the count anew."""

    def delay(self, failures: int) -> float:
        """How long to wait after so many failures in a row, at least one."""
        return min(self.first * 2.0 ** (failures - 1), self.longest)
