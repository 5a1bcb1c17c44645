"""The life of a job: which state may follow which (AIP-216)."""

from __future__ import annotations

from finery.jobs.v1.jobs_pb2 import JobState

QUEUED = JobState.JOB_STATE_QUEUED
RUNNING = JobState.JOB_STATE_RUNNING
CANCELLING = JobState.JOB_STATE_CANCELLING
CANCELLED = JobState.JOB_STATE_CANCELLED
SUCCEEDED = JobState.JOB_STATE_SUCCEEDED
FAILED = JobState.JOB_STATE_FAILED

FINAL = frozenset({CANCELLED, SUCCEEDED, FAILED})
ACTIVE = frozenset({RUNNING, CANCELLING})
ALL = (QUEUED, RUNNING, CANCELLING, CANCELLED, SUCCEEDED, FAILED)

FOLLOWS: dict[JobState.ValueType, frozenset[JobState.ValueType]] = {
    # A queued job whose attempt can't even be started fails. One that was begun before may have something to hand in.
    QUEUED: frozenset({RUNNING, CANCELLING, CANCELLED, FAILED}),
    # RUNNING follows RUNNING when the next attempt begins; QUEUED when the service was shut down on purpose.
    RUNNING: frozenset({RUNNING, QUEUED, CANCELLING, SUCCEEDED, FAILED}),
    # A worker may finish, or fail, before it hears of the cancellation; when it dies, another attempt may hand in.
    CANCELLING: frozenset({CANCELLING, CANCELLED, SUCCEEDED, FAILED}),
    CANCELLED: frozenset(),
    SUCCEEDED: frozenset(),
    FAILED: frozenset(),
}


def state_name(state: JobState.ValueType) -> str:
    """The state as people read it, for instance "RUNNING"."""
    return JobState.Name(state).removeprefix("JOB_STATE_")
