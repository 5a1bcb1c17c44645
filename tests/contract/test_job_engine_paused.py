"""A service that only looks at jobs, by its setting of no running jobs."""

import asyncio
import os
import signal
from pathlib import Path

from finery_shared.jobs.patience import EngineSettings
from finery_shared.jobs.schema import open_sqlite
from finery_shared.jobs.states import CANCELLED, QUEUED, RUNNING, SUCCEEDED
from finery_shared.jobs.store import JobStore
from tests.fakes.toy_jobs import Process, create, ended, measured, serving, spec, states, wait_until, watch, worker_pid
from tests.fakes.toy_service import ToyService

PAUSED = EngineSettings(max_running_jobs=0, poll_interval=0.05)
ROUNDS = 10 * PAUSED.poll_interval


async def test_the_queue_stays_as_it_is(tmp_path: Path) -> None:
    async with serving(ToyService(tmp_path / "state", PAUSED)) as toy:
        waiting, unwanted = await create(toy, tmp_path), await create(toy, tmp_path)
        await toy.engine.cancel(unwanted.name)
        await asyncio.sleep(ROUNDS)
    assert states(toy.store.events(waiting.name)) == [QUEUED]
    assert states(toy.store.events(unwanted.name)) == [QUEUED, CANCELLED]


async def test_a_living_worker_is_left_to_the_service_that_comes_next(service: Process, tmp_path: Path) -> None:
    store, job = running_job(service, tmp_path, steps=12)
    service.kill()
    async with serving(ToyService(service.state, PAUSED)):
        await asyncio.sleep(ROUNDS)
    assert Path(f"/proc/{worker_pid(store.get(job))}").exists()
    service.start()
    await asyncio.to_thread(wait_until, lambda: ended(store, job))
    assert states(store.events(job)) == [QUEUED, RUNNING, SUCCEEDED]


async def test_a_lost_attempt_is_left_too_but_can_be_cancelled(service: Process, tmp_path: Path) -> None:
    store, job = running_job(service, tmp_path, steps=600)
    service.kill()
    os.kill(worker_pid(store.get(job)), signal.SIGKILL)
    async with serving(ToyService(service.state, PAUSED)) as toy:
        await asyncio.sleep(ROUNDS)
        assert states(store.events(job)) == [QUEUED, RUNNING]
        await toy.engine.cancel(job)
        assert states(await watch(toy, job))[-1] == CANCELLED
    assert not (tmp_path / ".staging").exists()


def running_job(service: Process, work: Path, *, steps: int) -> tuple[JobStore, str]:
    store = JobStore(open_sqlite(service.state / "jobs.db"), "toys")
    job = store.create(spec(work, steps=steps, pause=0.5), str(work)).name
    wait_until(lambda: measured(store, job))
    return store, job
