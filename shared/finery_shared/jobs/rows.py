"""Rows of the job database and the changes made to them, inside the store's transactions."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from finery.jobs.v1.jobs_pb2 import JobError, JobEvent, JobState, JobStatus
from finery.jobs.v1.worker_pb2 import WorkerOutcome, WorkerUpdate
from finery_shared.errors import FineryError, Reason
from finery_shared.jobs.schema import EVENTS, JOBS
from finery_shared.jobs.states import CANCELLING, FINAL, FOLLOWS, state_name


@dataclass(frozen=True)
class JobRecord:
    """One row of the jobs table."""

    name: str
    spec: bytes
    work_dir: str
    environment: Mapping[str, str]
    """Variables that its workers get as they were when it was accepted."""
    status: JobStatus
    output: bytes | None
    cancel_requested: bool
    crashes: int
    handle: str | None
    secret: str | None
    sequence: int
    outcome: WorkerOutcome | None
    reported_at: float | None
    failure: JobError | None
    """Why it fails, while another attempt hands in what it saved."""

    @property
    def state(self) -> JobState.ValueType:
        """Where the job is in its life."""
        return self.status.state

    @property
    def closing(self) -> bool:
        """Whether all that is left to do is to hand in what was saved."""
        return self.state == CANCELLING or self.failure is not None


def get_record(connection: Connection, name: str) -> JobRecord:
    """One job. Raises JOB_NOT_FOUND."""
    row = connection.execute(select(JOBS).where(JOBS.c.name == name)).mappings().first()
    if row is None:
        message = f"There is no job {name!r}. `finery jobs list` shows the jobs that there are."
        raise FineryError(Reason.JOB_NOT_FOUND, message, job=name)
    return to_record(row)


def same_request(row: Any, digest: str) -> JobRecord:
    """The job that a request id made. Raises REQUEST_ID_REUSED if it was made from another spec."""
    if row["request_sha256"] != digest:
        message = f"request_id {row['request_id']} was used for {row['name']} with another spec. Make a new UUID."
        raise FineryError(Reason.REQUEST_ID_REUSED, message, job=row["name"])
    return to_record(row)


def to_record(row: Any) -> JobRecord:
    """The row as a record."""
    return JobRecord(
        name=row["name"],
        spec=row["spec"],
        work_dir=row["work_dir"],
        environment=json.loads(row["environment"] or "{}"),
        status=JobStatus.FromString(row["status"]),
        output=row["output"],
        cancel_requested=row["cancel_requested"],
        crashes=row["crashes"],
        handle=row["handle"],
        secret=row["secret"],
        sequence=row["sequence"],
        outcome=None if row["outcome"] is None else WorkerOutcome.FromString(row["outcome"]),
        reported_at=row["reported_at"],
        failure=None if row["failure"] is None else JobError.FromString(row["failure"]),
    )


def change_state(
    connection: Connection,
    record: JobRecord,
    state: JobState.ValueType,
    *,
    status: JobStatus | None = None,
    **values: Any,
) -> None:
    """Move a job to a state, with the event that tells of it."""
    if state not in FOLLOWS[record.state]:
        message = f"{record.name} is {state_name(record.state)} and can't become {state_name(state)}."
        raise FineryError(Reason.INTERNAL, message)
    new = JobStatus()
    new.CopyFrom(status or record.status)
    new.state = state
    if state in FINAL:
        new.end_time.GetCurrentTime()
    values |= {"state": state, "attempt": new.attempt, "status": new.SerializeToString()}
    connection.execute(update(JOBS).where(JOBS.c.name == record.name).values(values))
    append_event(connection, record.name, JobEvent(status=new))


def apply_update(new: WorkerUpdate, status: JobStatus, attempt: int) -> JobEvent:
    """The event of a worker's update; the status is brought up to it."""
    event, kind = JobEvent(time=new.time), new.WhichOneof("payload")
    if kind == "progress":
        event.progress.CopyFrom(new.progress)
        status.progress.CopyFrom(new.progress)
    elif kind == "metrics":
        event.metrics.CopyFrom(new.metrics)
        event.metrics.attempt = attempt
        event.metrics.time.CopyFrom(new.time)
        status.latest_metrics.update(new.metrics.values)
    else:
        event.log.CopyFrom(new.log)
        event.log.attempt = attempt
    return event


def append_event(connection: Connection, name: str, event: JobEvent) -> None:
    """Add an event behind the job's last one."""
    if not event.HasField("time"):
        event.time.GetCurrentTime()
    row = {
        "name": name,
        "seq": last_seq(connection, name) + 1,
        "kind": event.WhichOneof("payload"),
        "event": event.SerializeToString(),
    }
    connection.execute(insert(EVENTS).values(row))


def last_seq(connection: Connection, name: str) -> int:
    """Sequence number of a job's last event; 0 without one."""
    return connection.execute(select(func.max(EVENTS.c.seq)).where(EVENTS.c.name == name)).scalar() or 0


def to_event(seq: int, data: bytes) -> JobEvent:
    """The stored event with its resume token."""
    event = JobEvent.FromString(data)
    event.resume_token = str(seq)
    return event


def parse_resume_token(token: str) -> int:
    """The sequence number in a resume token. Raises RESUME_TOKEN_INVALID."""
    if not token:
        return 0
    if not token.isascii() or not token.isdigit() or len(token) > 18:
        message = "The resume token is not one that a watch has sent. Watch again without one."
        raise FineryError(Reason.RESUME_TOKEN_INVALID, message, field="resume_token")
    return int(token)


def encode_page_token(number: int) -> str:
    """An opaque token that stands for a position."""
    return base64.urlsafe_b64encode(str(number).encode()).decode().rstrip("=")


def decode_page_token(token: str) -> int | None:
    """The position in a page token; None for "". Raises PAGE_TOKEN_INVALID."""
    if not token:
        return None
    try:
        return int(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    except (ValueError, binascii.Error) as error:
        message = "The page token is not one that a list has returned. List again without one."
        raise FineryError(Reason.PAGE_TOKEN_INVALID, message, field="page_token") from error
