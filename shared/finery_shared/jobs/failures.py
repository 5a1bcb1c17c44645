"""Between errors and what is stored and sent of them."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import unquote, urlsplit

from finery.jobs.v1.jobs_pb2 import JobError
from finery_shared.errors import FineryError, Reason
from finery_shared.jobs.publication import Published


def to_job_error(error: FineryError) -> JobError:
    """The message of an error."""
    return JobError(reason=str(error.reason), message=error.message, metadata=error.metadata)


def from_job_error(error: JobError) -> FineryError:
    """The error of a message; a reason that this version does not know is INTERNAL."""
    reason = Reason(error.reason) if error.reason in Reason.__members__ else Reason.INTERNAL
    return FineryError(reason, error.message, **error.metadata)


def with_saved(failure: JobError, published: Sequence[Published]) -> FineryError:
    """Why a job failed, and where that is which it had saved."""
    error = from_job_error(failure)
    if not published:
        return error
    path = unquote(urlsplit(published[-1].artifact.uri).path)
    message = f"{error.message} What it had saved is kept: --resume_from_checkpoint {path} goes on from there."
    return FineryError(error.reason, message, **{**error.metadata, "saved": path})
