"""Silent workers: one that hangs is ended, one whose service was away is not."""

import asyncio
import os
import signal
import time
from pathlib import Path

from sqlalchemy import update

from finery_shared.jobs.schema import JOBS, open_sqlite
from finery_shared.jobs.states import QUEUED, RUNNING, SUCCEEDED
from finery_shared.jobs.store import JobStore
from tests.fakes.toy_jobs import (
    Process,
    create,
    ended,
    measured,
    serving,
    spec,
    states,
    until,
    wait_until,
    watch,
    worker_pid,
)
from tests.fakes.toy_service import ToyService

HOUR = 3600.0


class Time:
    """Goes as fast as it does, and leaps on demand."""

    def __init__(self) -> None:
        self.leaps = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.leaps


async def test_a_worker_that_hangs_is_killed_and_its_job_tried_again(tmp_path: Path) -> None:
    clock = Time()
    async with serving(ToyService(tmp_path / "state", clock=clock)) as toy:
        job = await create(toy, tmp_path, steps=3, pause=1.0)
        await until(lambda: measured(toy.store, job.name))
        hanging = toy.store.get(job.name).handle
        os.kill(worker_pid(toy.store.get(job.name)), signal.SIGSTOP)
        while toy.store.get(job.name).handle == hanging:  # its last report may be read after a leap only
            clock.leaps += HOUR
            await asyncio.sleep(0.2)
        events = await watch(toy, job.name)
    assert states(events) == [QUEUED, RUNNING, QUEUED, RUNNING, SUCCEEDED]
    assert any("SIGKILL" in event.log.text for event in events)


def test_a_worker_outlives_a_service_that_was_away_for_long(service: Process, tmp_path: Path) -> None:
    database = open_sqlite(tmp_path / "state" / "jobs.db")
    store = JobStore(database, "toys")
    job = store.create(spec(tmp_path, steps=8, pause=1.0), str(tmp_path)).name
    wait_until(lambda: measured(store, job))
    service.kill()
    with database.begin() as connection:
        connection.execute(update(JOBS).values(reported_at=JOBS.c.reported_at - HOUR))
    service.start()
    wait_until(lambda: ended(store, job))
    assert service.end() == 0
    assert states(store.events(job)) == [QUEUED, RUNNING, SUCCEEDED]
