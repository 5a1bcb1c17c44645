"""What a queued job waits for, on the screen."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from finery_client.cli.screen import Screen
from finery_client.jobs import Job, Jobs, ahead
from finery_shared.errors import FineryError
from finery_shared.jobs.states import state_name

_SETTLING_SECONDS = 1.0
"""A job that begins within that time was not kept waiting."""


class QueueView:
    """Tells which jobs are ahead of one, each once."""

    def __init__(self, jobs: Jobs[Any, Job], name: str, screen: Screen) -> None:
        self._jobs = jobs
        self._name = name
        self._screen = screen
        self._told: set[str] = set()

    def tell(self) -> None:
        """Say what the job waits for, if it does, and how to be rid of that."""
        with contextlib.suppress(FineryError):  # a remark is no reason to stop following
            if not ahead(self._jobs, self._name):
                return
            time.sleep(_SETTLING_SECONDS)
            for job in ahead(self._jobs, self._name):
                self._tell(job)

    def _tell(self, job: Job) -> None:
        if job.name in self._told:
            return
        self._told.add(job.name)
        state = state_name(job.status.state).lower()
        self._screen.say(
            f"{self._name} waits for {job.name}, which is {state}. To stop that one: finery jobs cancel {job.name}"
        )
