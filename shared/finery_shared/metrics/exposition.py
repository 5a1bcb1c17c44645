"""A registry as text, of one process or of several that serve one port together."""

from __future__ import annotations

import os
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

METRICS_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
"""Variable of prometheus-client: processes that have it share their figures through files in that directory.

It must stand in a process's environment before the process starts, and name an empty directory when the first starts.
"""


def exposition(registry: CollectorRegistry) -> bytes:
    """The figures in Prometheus' text format: of all processes that share a directory, else of the registry."""
    if not os.environ.get(METRICS_DIRECTORY):
        return generate_latest(registry)
    together = CollectorRegistry()
    MultiProcessCollector(together)  # type: ignore[no-untyped-call]  # it registers itself
    return generate_latest(together)


def shares_figures() -> bool:
    """Whether this process is one of several that show their figures as one."""
    return bool(os.environ.get(METRICS_DIRECTORY))


def forget_process(directory: Path, pid: int) -> None:
    """Drop what a process of the group that has ended counted as being under way; its totals stay."""
    mark_process_dead(pid, str(directory))  # type: ignore[no-untyped-call]
