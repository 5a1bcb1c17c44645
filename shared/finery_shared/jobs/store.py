"""The job store: every change of a job and the event that tells of it, in one transaction."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, delete, func, insert, select, update
from sqlalchemy.exc import OperationalError

from finery.jobs.v1.jobs_pb2 import JobEvent, JobMetrics, JobState, JobStatus
from finery.jobs.v1.worker_pb2 import WorkerOutcome, WorkerUpdate
from finery_shared.artifacts.publish import disk_full
from finery_shared.errors import FineryError, Reason
from finery_shared.jobs.failures import to_job_error
from finery_shared.jobs.rows import (
    JobRecord,
    append_event,
    apply_update,
    change_state,
    decode_page_token,
    encode_page_token,
    get_record,
    last_seq,
    parse_resume_token,
    same_request,
    to_event,
    to_record,
)
from finery_shared.jobs.schema import EVENTS, JOBS, create_tables
from finery_shared.jobs.states import ACTIVE, CANCELLED, CANCELLING, FINAL, QUEUED, RUNNING, state_name


class JobStore:
    """Jobs of one collection (say "trainingJobs") in one database. Thread-safe; every method is one transaction."""

    def __init__(self, engine: Engine, collection: str) -> None:
        self._engine = engine
        self._collection = collection
        with self._transaction() as connection:
            create_tables(connection)

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except OperationalError as error:
            if "full" not in str(error.orig):
                raise
            raise disk_full(Path(self._engine.url.database or "the job database")) from error

    def create(
        self,
        spec: bytes,
        work_dir: str,
        request_id: str = "",
        *,
        request: bytes = b"",
        environment: Mapping[str, str] | None = None,
    ) -> JobRecord:
        """Store a queued job; a repeated ``request_id`` returns the job it made.

        ``request`` is what the caller sent, before defaults were filled in; it decides whether a repeat is one.
        ``environment`` are variables that all its workers get, whatever later processes of the service are told.
        Raises REQUEST_ID_REUSED if the repeat asks for something else.
        """
        digest = hashlib.sha256(request or spec).hexdigest()
        with self._transaction() as connection:
            if request_id:
                row = connection.execute(select(JOBS).where(JOBS.c.request_id == request_id)).mappings().first()
                if row is not None:
                    return same_request(row, digest)
            status = JobStatus(state=QUEUED)
            status.create_time.GetCurrentTime()
            name = f"{self._collection}/{uuid.uuid4().hex[:12]}"
            values = {
                "name": name,
                "request_id": request_id or None,
                "request_sha256": digest,
                "spec": spec,
                "work_dir": work_dir,
                "environment": json.dumps(dict(environment or {})),
                "state": QUEUED,
                "status": status.SerializeToString(),
            }
            connection.execute(insert(JOBS).values(values))
            append_event(connection, name, JobEvent(status=status))
            return get_record(connection, name)

    def find_request(self, request_id: str, request: bytes) -> JobRecord | None:
        """The job that a request id made already, if any. Raises REQUEST_ID_REUSED like `create`."""
        if not request_id:
            return None
        with self._transaction() as connection:
            row = connection.execute(select(JOBS).where(JOBS.c.request_id == request_id)).mappings().first()
            return same_request(row, hashlib.sha256(request).hexdigest()) if row is not None else None

    def get(self, name: str) -> JobRecord:
        """One job. Raises JOB_NOT_FOUND."""
        with self._transaction() as connection:
            return get_record(connection, name)

    def list_jobs(self, page_size: int = 0, page_token: str = "") -> tuple[list[JobRecord], str]:
        """One page of jobs, newest first, and the token of the next ("" at the end)."""
        size, before = min(page_size or 50, 1000), decode_page_token(page_token)
        query = select(JOBS).order_by(JOBS.c.ordinal.desc()).limit(size + 1)
        if before is not None:
            query = query.where(JOBS.c.ordinal < before)
        with self._transaction() as connection:
            rows = connection.execute(query).mappings().all()
        token = encode_page_token(rows[size - 1]["ordinal"]) if len(rows) > size else ""
        return [to_record(row) for row in rows[:size]], token

    def in_states(self, states: Sequence[JobState.ValueType] | frozenset[JobState.ValueType]) -> list[JobRecord]:
        """All jobs in one of the states, oldest first."""
        query = select(JOBS).where(JOBS.c.state.in_(states)).order_by(JOBS.c.ordinal)
        with self._transaction() as connection:
            return [to_record(row) for row in connection.execute(query).mappings()]

    def count(self) -> dict[JobState.ValueType, int]:
        """How many jobs are in each state; a state that none is in is left out."""
        query = select(JOBS.c.state, func.count().label("number")).group_by(JOBS.c.state)
        with self._transaction() as connection:
            return {row.state: row.number for row in connection.execute(query)}

    def delete(self, name: str) -> None:
        """Forget a job that has ended, with its events. Raises JOB_NOT_FOUND or JOB_NOT_FINISHED."""
        with self._transaction() as connection:
            record = get_record(connection, name)
            if record.state not in FINAL:
                message = f"{name} is {state_name(record.state)}. Cancel it first, and wait until it has ended."
                raise FineryError(Reason.JOB_NOT_FINISHED, message, job=name)
            connection.execute(delete(EVENTS).where(EVENTS.c.name == name))
            connection.execute(delete(JOBS).where(JOBS.c.name == name))

    def request_cancel(self, name: str) -> JobRecord:
        """Mark a job as to be cancelled: one that never began ends at once, one that did is CANCELLING, others stay.

        From now on ``crashes`` counts the workers that die instead of handing in what was saved.
        """
        with self._transaction() as connection:
            record = get_record(connection, name)
            if record.state in (QUEUED, RUNNING):
                state = CANCELLING if record.status.attempt else CANCELLED
                change_state(connection, record, state, cancel_requested=True, crashes=0)
            return get_record(connection, name)

    def begin_attempt(self, name: str, secret: str) -> JobRecord:
        """Open the next attempt: reports with another secret are refused from now on. A cancelled job stays so."""
        with self._transaction() as connection:
            record = get_record(connection, name)
            status = JobStatus()
            status.CopyFrom(record.status)
            status.attempt += 1
            status.ClearField("progress")
            if not status.HasField("start_time"):
                status.start_time.GetCurrentTime()
            fresh = {"secret": secret, "handle": None, "sequence": 0, "outcome": None, "reported_at": time.time()}
            state = CANCELLING if record.state == CANCELLING else RUNNING
            change_state(connection, record, state, status=status, **fresh)
            return get_record(connection, name)

    def set_handle(self, name: str, handle: str) -> None:
        """Remember the process of the current attempt."""
        with self._transaction() as connection:
            connection.execute(update(JOBS).where(JOBS.c.name == name).values(handle=handle))

    def crashes_with(self, record: JobRecord) -> int:
        """How often a job's worker has died, this time included, since an attempt last got further than all before."""
        with self._transaction() as connection:
            query = select(EVENTS).where(EVENTS.c.name == record.name, EVENTS.c.kind == "status")
            told = [to_event(row["seq"], row["event"]).status for row in connection.execute(query).mappings()]
        furthest = max((s.progress.fraction for s in told if s.state == QUEUED), default=0.0)
        return 1 if record.status.progress.fraction > furthest else record.crashes + 1

    def requeue(
        self, seen: JobRecord, text: str, *, crashes: int | None = None, failure: FineryError | None = None
    ) -> None:
        """Close a job's attempt and say why; ``crashes`` is the new count, None leaves it.

        A running job goes back into the queue, a cancelled one waits to hand in what was saved. With a ``failure`` it
        is all that is left to do for a running one too. Nothing happens if it is not as it was ``seen`` any more:
        cancelled, or its outcome has come.
        """
        with self._transaction() as connection:
            record = get_record(connection, seen.name)
            if record.state != seen.state or record.outcome != seen.outcome:
                return
            event = JobEvent()
            event.log.text, event.log.attempt = text, record.status.attempt
            append_event(connection, record.name, event)
            count = record.crashes if crashes is None else crashes
            state = CANCELLING if record.state == CANCELLING else QUEUED
            values: dict[str, Any] = {"secret": None, "handle": None, "crashes": count}
            if failure is not None:
                values["failure"] = to_job_error(failure).SerializeToString()
            change_state(connection, record, state, **values)

    def report(self, name: str, attempt: int, secret: str, updates: Sequence[WorkerUpdate]) -> tuple[JobRecord, int]:
        """Store a worker's updates that are new; returns the job and the highest stored sequence number.

        Raises ATTEMPT_FENCED if the attempt is not the current one or the secret is not its own.
        """
        with self._transaction() as connection:
            record = get_record(connection, name)
            if record.state not in ACTIVE or record.status.attempt != attempt or record.secret != secret:
                message = f"Attempt {attempt} of {name} is over; its worker must end."
                raise FineryError(Reason.ATTEMPT_FENCED, message, job=name)
            status, sequence = record.status, record.sequence
            values: dict[str, Any] = {"reported_at": time.time()}
            for new in updates:
                if new.sequence <= sequence:
                    continue
                sequence = new.sequence
                if new.WhichOneof("payload") == "outcome":
                    values["outcome"] = new.outcome.SerializeToString()
                else:
                    append_event(connection, name, apply_update(new, status, attempt))
            values |= {"sequence": sequence, "status": status.SerializeToString()}
            connection.execute(update(JOBS).where(JOBS.c.name == name).values(values))
            return get_record(connection, name), sequence

    def set_outcome(self, name: str, outcome: WorkerOutcome) -> None:
        """Store how an attempt ended when its worker could not report it any more."""
        with self._transaction() as connection:
            connection.execute(update(JOBS).where(JOBS.c.name == name).values(outcome=outcome.SerializeToString()))

    def finish(
        self,
        name: str,
        state: JobState.ValueType,
        *,
        error: FineryError | None = None,
        output: bytes | None = None,
        metrics: dict[str, float] | None = None,
    ) -> JobRecord:
        """Move a job to a final state."""
        with self._transaction() as connection:
            record = get_record(connection, name)
            status = JobStatus()
            status.CopyFrom(record.status)
            if error is not None:
                status.error.CopyFrom(to_job_error(error))
            if state == JobState.JOB_STATE_SUCCEEDED:
                status.progress.fraction = 1.0
            status.latest_metrics.update(metrics or {})
            values: dict[str, Any] = {"secret": None, "handle": None, "output": output}
            change_state(connection, record, state, status=status, **values)
            return get_record(connection, name)

    def events(self, name: str, resume_token: str = "", limit: int = 1000) -> list[JobEvent]:
        """Events after a resume token, oldest first.

        Raises JOB_NOT_FOUND, RESUME_TOKEN_INVALID, or RESUME_TOKEN_EXPIRED for a token that this database never gave.
        """
        with self._transaction() as connection:
            get_record(connection, name)
            after = parse_resume_token(resume_token)
            if after > last_seq(connection, name):
                message = "The resume token is older than this job's events. Watch again without one."
                raise FineryError(Reason.RESUME_TOKEN_EXPIRED, message, job=name)
            query = select(EVENTS).where(EVENTS.c.name == name, EVENTS.c.seq > after)
            rows = connection.execute(query.order_by(EVENTS.c.seq).limit(limit)).mappings().all()
        return [to_event(row["seq"], row["event"]) for row in rows]

    def metrics(self, name: str, page_size: int = 0, page_token: str = "") -> tuple[list[JobMetrics], str]:
        """One page of a job's measurements, oldest first, and the token of the next ("" at the end)."""
        size, after = min(page_size or 1000, 10_000), decode_page_token(page_token) or 0
        query = select(EVENTS).where(EVENTS.c.name == name, EVENTS.c.kind == "metrics", EVENTS.c.seq > after)
        with self._transaction() as connection:
            get_record(connection, name)
            rows = connection.execute(query.order_by(EVENTS.c.seq).limit(size + 1)).mappings().all()
        token = encode_page_token(rows[size - 1]["seq"]) if len(rows) > size else ""
        return [to_event(row["seq"], row["event"]).metrics for row in rows[:size]], token
