"""The job database, also one that an earlier version made."""

from pathlib import Path

from finery_shared.errors import FineryError, Reason
from finery_shared.jobs.failures import from_job_error
from finery_shared.jobs.schema import open_sqlite
from finery_shared.jobs.states import CANCELLING, QUEUED
from finery_shared.jobs.store import JobStore


def test_jobs_of_an_older_database_are_read(tmp_path: Path) -> None:
    engine = open_sqlite(tmp_path / "jobs.db")
    old = JobStore(engine, "toys").create(b"spec", "/work")
    with engine.begin() as connection:
        for column in ("environment", "failure"):
            connection.exec_driver_sql(f"ALTER TABLE jobs DROP COLUMN {column}")
    store = JobStore(engine, "toys")
    assert (store.get(old.name).environment, store.get(old.name).failure) == ({}, None)
    new = store.create(b"spec", "/work", environment={"ROOTS": "/a:/b"})
    assert store.get(new.name).environment == {"ROOTS": "/a:/b"}


def test_a_failure_waits_with_its_job(tmp_path: Path) -> None:
    store = JobStore(open_sqlite(tmp_path / "jobs.db"), "toys")
    job = store.create(b"spec", "/work")
    running = store.begin_attempt(job.name, "secret")
    assert not running.closing
    failure = FineryError(Reason.DISK_FULL, "No space is left.", path="/work")
    store.requeue(running, "It failed.", failure=failure)
    waiting = store.get(job.name)
    assert waiting.state == QUEUED and waiting.closing and waiting.failure is not None
    told = from_job_error(waiting.failure)
    assert (told.reason, told.message, told.metadata) == (failure.reason, failure.message, failure.metadata)
    assert not waiting.status.HasField("error")
    assert store.request_cancel(job.name).state == CANCELLING
