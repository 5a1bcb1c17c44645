"""What is told of jobs: how many there are, by the store; how their attempts went, by the engine."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from finery.jobs.v1.jobs_pb2 import JobState, JobStatus
from finery_shared.jobs.states import ALL, state_name
from finery_shared.jobs.store import JobStore

_SECONDS = (1.0, 10.0, 30.0, 60.0, 180.0, 600.0, 1800.0, 3600.0, 10800.0, 36000.0, 86400.0, 259200.0)


class JobCollector(Collector):
    """Jobs by state, counted in the database when they are asked for; those that were deleted are not there."""

    def __init__(self, store: JobStore) -> None:
        self._store = store

    def collect(self) -> Iterator[Metric]:
        """The figures as they are now."""
        family = GaugeMetricFamily("finery_jobs", "Jobs by state; QUEUED is the queue's length.", labels=["state"])
        counts = self._store.count()
        for state in ALL:
            family.add_metric([state_name(state)], counts.get(state, 0))
        yield family


class JobCounters:
    """What the engine of one service process has seen since it started."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._began = Counter("finery_job_attempts", "Attempts that were begun.", registry=registry)
        self._lost = Counter(
            "finery_job_attempts_lost", "Attempts whose worker died without an outcome.", registry=registry
        )
        self._seconds = Histogram(
            "finery_job_duration_seconds",
            "Time from a job's first attempt to its end, by the state that it ended in.",
            ["state"],
            buckets=_SECONDS,
            registry=registry,
        )

    def attempt_began(self) -> None:
        """Count an attempt."""
        self._began.inc()

    def attempt_lost(self) -> None:
        """Count one that ended without a word."""
        self._lost.inc()

    def job_ended(self, status: JobStatus, state: JobState.ValueType) -> None:
        """Count a job that is over; one that never began took no time."""
        begun = status.HasField("start_time")
        seconds = status.end_time.ToNanoseconds() - status.start_time.ToNanoseconds() if begun else 0
        self._seconds.labels(state_name(state)).observe(max(seconds, 0) / 1e9)
