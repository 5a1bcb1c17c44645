"""Following a job to its end, through broken connections and restarts of its service."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from finery.jobs.v1.jobs_pb2 import JobEvent
from finery_client.jobs import Job, Jobs, ended
from finery_shared.errors import FineryError, Reason

J = TypeVar("J", bound=Job)

_LOST = frozenset({Reason.SERVICE_UNAVAILABLE, Reason.DEADLINE_EXCEEDED, Reason.CANCELLED})


@dataclass(frozen=True)
class Patience:
    """How long a follower bears a silent service, in seconds."""

    watch: float = 60.0
    """Longest single watch. A service sends a heartbeat sooner, so that a watch without a message is a lost one."""
    give_up: float = 180.0
    """Silence after which the follower ends with an error."""
    first_pause: float = 0.2
    last_pause: float = 2.0


class Listener(Protocol):
    """Hears what happens to a job."""

    def event(self, event: JobEvent) -> None:
        """Something happened; heartbeats are left out."""

    def lost(self, error: FineryError) -> None:
        """The service can't be reached; it is tried again."""

    def regained(self) -> None:
        """The service is there again."""


class Follower:
    """Watches one job. ``death`` says why a private service is known to have ended."""

    def __init__(
        self,
        listener: Listener,
        death: Callable[[], FineryError | None],
        patience: Patience | None = None,
    ) -> None:
        self._listener = listener
        self._death = death
        self._patience = patience or Patience()
        self._token = ""

    def follow(self, jobs: Jobs[Any, J], name: str) -> J:
        """Hand every event to the listener, once and in order, until the job has ended; returns it as it ended.

        Called again after an interruption, it goes on after the last event.

        Raises SERVICE_UNAVAILABLE when the service stays away, and what it answers (JOB_NOT_FOUND, for instance).
        """
        contact = _Contact(self._listener, self._patience)
        while True:
            try:
                for event in jobs.watch(name, self._token, self._patience.watch):
                    contact.heard()
                    self._token = event.resume_token or self._token
                    if event.WhichOneof("payload") != "heartbeat":
                        self._listener.event(event)
                job = jobs.get(name)
                if ended(job):
                    return job
                contact.pause()
            except FineryError as error:
                if error.reason is Reason.RESUME_TOKEN_EXPIRED and self._token:
                    self._token = ""
                elif error.reason in _LOST:
                    contact.missed(self._death() or error, final=self._death() is not None)
                else:
                    raise


class _Contact:
    """What a follower knows of its connection."""

    def __init__(self, listener: Listener, patience: Patience) -> None:
        self._listener = listener
        self._patience = patience
        self._last_sign = time.monotonic()
        self._misses = 0
        self._pause = patience.first_pause

    def heard(self) -> None:
        """A message came."""
        if self._misses > 1:
            self._listener.regained()
        self._misses = 0
        self._last_sign = time.monotonic()
        self._pause = self._patience.first_pause

    def missed(self, error: FineryError, *, final: bool) -> None:
        """A watch broke. One that can be taken up again at once is not worth a word; ``final`` ends it all."""
        self._misses += 1
        if final or time.monotonic() - self._last_sign > self._patience.give_up:
            raise error
        if self._misses == 2:
            self._listener.lost(error)
        self.pause()

    def pause(self) -> None:
        """Wait before the next try, longer each time."""
        time.sleep(self._pause)
        self._pause = min(2 * self._pause, self._patience.last_pause)
