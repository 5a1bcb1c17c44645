"""What the job engine must be told: of a kind of job, and how patient to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from finery_shared.jobs.publication import Published


@dataclass(frozen=True)
class EngineSettings:
    """How patient the engine is. Times in seconds."""

    max_running_jobs: int = 1
    """0: a service to look at jobs with, and to cancel them. It begins none and leaves those under way alone."""
    max_attempts: int = 3
    """Attempts in a row whose worker dies without having got further than any before it, until the job fails."""
    poll_interval: float = 0.3
    lease: float = 180.0
    """Silence after which a living worker counts as hung."""
    cancel_grace: float = 30.0
    """How long a worker may take to stop by itself, before SIGTERM and then SIGKILL."""
    exit_grace: float = 20.0
    """How long a worker may live after it handed in its outcome."""
    heartbeat: float = 10.0
    """Longest silence of a watch."""


class JobKind(Protocol):
    """What the engine must know about one kind of job."""

    def environment(self, spec: bytes) -> Mapping[str, str]:
        """Environment variables of the worker, for instance the devices that it may see."""

    def ranks(self, spec: bytes) -> int:
        """How many processes work together on an attempt; 0: one by itself."""

    def replaces_output(self, spec: bytes) -> bool:
        """Whether an existing output may be replaced."""

    def output(self, published: list[Published], figures: Mapping[str, float]) -> bytes:
        """The serialized output message of the job."""
