"""What the job engine must be told about a kind of job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from finery_shared.jobs.publication import Published


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
