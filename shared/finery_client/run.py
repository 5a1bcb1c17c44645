"""Running a job: create it once, follow it, and tell its end."""

from __future__ import annotations

import uuid
from typing import Any, TypeVar

from finery_client.endpoints import Endpoint
from finery_client.follow import Follower, Listener
from finery_client.jobs import Job, Jobs, ended
from finery_shared.errors import FineryError, Reason
from finery_shared.jobs.states import CANCELLED, SUCCEEDED

Spec = TypeVar("Spec")
J = TypeVar("J", bound=Job)


def create(jobs: Jobs[Spec, J], spec: Spec) -> J:
    """Queue a job. A lost reply does not make two: the retry carries the same request id."""
    return jobs.create(spec, str(uuid.uuid4()))


def run(jobs: Jobs[Spec, J], spec: Spec, listener: Listener, endpoint: Endpoint) -> J:
    """Create a job and follow it to its end; returns it if it succeeded.

    Raises its own error. What interrupts this process cancels the job if the service is private, else leaves it.
    """
    job = create(jobs, spec)
    follower = Follower(listener, endpoint.death)
    try:
        return succeeded(follower.follow(jobs, job.name))
    except KeyboardInterrupt:
        if endpoint.private:
            cancel_and_wait(jobs, job.name, follower)
        raise


def succeeded(job: J) -> J:
    """The job, if it succeeded. Raises its own error, or CANCELLED."""
    status = job.status
    if status.state == SUCCEEDED:
        return job
    if status.state == CANCELLED:
        raise FineryError(Reason.CANCELLED, f"{job.name} was cancelled.", job=job.name)
    reason = status.error.reason
    known = Reason(reason) if reason in Reason.__members__ else Reason.INTERNAL
    message = status.error.message or "it gave no reason; see the service's log"
    raise FineryError(known, f"{job.name} failed: {message}", **{**status.error.metadata, "job": job.name})


def cancel_and_wait(jobs: Jobs[Any, J], name: str, follower: Follower) -> J:
    """Cancel a job and follow it to its end; returns it as it ended."""
    job = jobs.cancel(name)
    return job if ended(job) else follower.follow(jobs, name)
