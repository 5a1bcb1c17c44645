"""Stopping a service that has a job in hand: nothing that was made is lost."""

import asyncio
import os
import signal
import threading
from pathlib import Path

from finery_shared.jobs.patience import EngineSettings
from finery_shared.jobs.schema import open_sqlite
from finery_shared.jobs.states import RUNNING, SUCCEEDED
from finery_shared.jobs.store import JobStore
from finery_shared.jobs.worker import OUTCOME_FILE
from tests.fakes.toy_jobs import (
    PATIENCE,
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
from tests.fakes.toy_service import ToyExecutor, ToyService


class SlowEnd(ToyExecutor):
    """Takes until ``go`` to end a worker, which the engine does between publishing and the final state."""

    def __init__(self, state: Path) -> None:
        super().__init__(state)
        self.asked, self.go = threading.Event(), threading.Event()

    def end(self, handle: str | None, task_name: str) -> str:
        self.asked.set()
        self.go.wait(PATIENCE)
        return super().end(handle, task_name)


async def test_a_job_that_is_being_published_when_the_service_stops_succeeds(tmp_path: Path) -> None:
    executor = SlowEnd(tmp_path / "state")
    toy = ToyService(tmp_path / "state", executor=executor)
    await toy.start()
    job = await create(toy, tmp_path)
    await until(executor.asked.is_set)
    assert (tmp_path / "result").is_dir() and toy.store.get(job.name).state == RUNNING
    stopped = asyncio.create_task(toy.stop())
    await asyncio.sleep(0.2)
    executor.go.set()
    await stopped
    async with serving(ToyService(tmp_path / "state")) as again:
        assert states(await watch(again, job.name))[-1] == SUCCEEDED
    assert again.store.get(job.name).status.attempt == 1


async def test_an_outcome_that_was_handed_in_before_the_stop_is_settled_after_the_next_start(tmp_path: Path) -> None:
    async with serving(ToyService(tmp_path / "state", EngineSettings(exit_grace=60))) as toy:
        job = await create(toy, tmp_path, linger=600.0)
        await until(lambda: toy.store.get(job.name).outcome)
        pid = worker_pid(toy.store.get(job.name))
    assert not Path(f"/proc/{pid}").exists()
    assert not (tmp_path / "result").exists()
    async with serving(ToyService(tmp_path / "state")) as again:
        assert states(await watch(again, job.name))[-1] == SUCCEEDED
    assert again.store.get(job.name).status.attempt == 1
    assert (tmp_path / "result" / "data.txt").read_text() == "xxx"


def test_an_outcome_that_a_worker_could_only_write_down_counts(service: Process, tmp_path: Path) -> None:
    """The service is killed, the worker ends its work alone and is killed too: its work is published all the same."""
    store = JobStore(open_sqlite(tmp_path / "state" / "jobs.db"), "toys")
    job = store.create(spec(tmp_path, steps=2, pause=1.0), str(tmp_path)).name
    wait_until(lambda: measured(store, job))
    service.kill()
    staging = tmp_path / ".staging" / job.rpartition("/")[2] / "1"
    wait_until((staging / OUTCOME_FILE).exists)
    os.kill(worker_pid(store.get(job)), signal.SIGKILL)
    service.start()
    wait_until(lambda: ended(store, job))
    assert service.end() == 0
    assert (store.get(job).state, store.get(job).status.attempt) == (SUCCEEDED, 1)
