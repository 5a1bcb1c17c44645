"""What a job saved before it failed is not lost with it, and a machine in want fails no job."""

import errno
from collections.abc import Mapping
from pathlib import Path

import pytest

from finery.jobs.v1.jobs_pb2 import JobEvent
from finery_shared.artifacts import verify
from finery_shared.jobs.executor import Task
from finery_shared.jobs.patience import EngineSettings
from finery_shared.jobs.states import CANCELLING, FAILED, QUEUED, RUNNING, SUCCEEDED
from tests.fakes.toy_jobs import create, serving, states, until, watch
from tests.fakes.toy_service import ToyExecutor, ToyService

ONE_DEATH = EngineSettings(max_attempts=1)
"""The first death of a worker is its job's end."""


class FullDisk(ToyExecutor):
    """Can't write the tasks of attempts from ``first`` on, as long as the disk is full."""

    def __init__(self, state: Path, first: int) -> None:
        super().__init__(state)
        self.full = True
        self._first = first

    def submit(self, task: Task, environment: Mapping[str, str], ranks: int = 0) -> str:
        if self.full and task.attempt >= self._first:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().submit(task, environment, ranks)


def said(events: list[JobEvent]) -> str:
    return " ".join(event.log.text for event in events if event.HasField("log"))


async def test_a_job_that_fails_for_good_hands_in_what_it_saved(tmp_path: Path) -> None:
    async with serving(ToyService(tmp_path / "state", ONE_DEATH)) as toy:
        job = await create(toy, tmp_path, die_at=2, resume=True, hand_in="count")
        events = await watch(toy, job.name)
    assert states(events) == [QUEUED, RUNNING, QUEUED, RUNNING, FAILED]
    assert "Another one hands in what was saved." in said(events)
    record = toy.store.get(job.name)
    error, saved = record.status.error, tmp_path / "result"
    assert error.reason == "WORKER_DIED" and "killed by SIGKILL" in error.message
    assert f"What it had saved is kept: --resume_from_checkpoint {saved} goes on from there." in error.message
    assert error.metadata["saved"] == str(saved)
    assert record.output is None
    assert verify(saved).metrics["steps"] == 2
    assert {path.name for path in tmp_path.iterdir()} == {"state", "result"}


@pytest.mark.parametrize(("hand_in", "attempts"), [("die", 3), ("fail", 2), ("nothing", 2)])
async def test_a_job_that_can_not_hand_in_fails_for_its_own_reason(tmp_path: Path, hand_in: str, attempts: int) -> None:
    async with serving(ToyService(tmp_path / "state", ONE_DEATH)) as toy:
        job = await create(toy, tmp_path, die_at=2, resume=True, hand_in=hand_in)
        assert states(await watch(toy, job.name))[-1] == FAILED
    status = toy.store.get(job.name).status
    assert (status.attempt, status.error.reason, dict(status.error.metadata)) == (attempts, "WORKER_DIED", {})
    assert {path.name for path in tmp_path.iterdir()} == {"state"}


async def test_what_a_gate_refused_is_not_handed_in(tmp_path: Path) -> None:
    async with serving(ToyService(tmp_path / "state")) as toy:
        job = await create(toy, tmp_path, fail="the toy gate refused", resume=True, hand_in="count")
        assert states(await watch(toy, job.name)) == [QUEUED, RUNNING, FAILED]
    assert {path.name for path in tmp_path.iterdir()} == {"state"}


@pytest.mark.parametrize("cancel", [False, True])
async def test_a_service_that_is_stopped_while_a_job_fails_hands_in_after_the_next_start(
    tmp_path: Path, cancel: bool
) -> None:
    """Cancelling what fails already changes nothing."""
    executor = FullDisk(tmp_path / "state", first=2)
    async with serving(ToyService(tmp_path / "state", ONE_DEATH, executor=executor)) as toy:
        job = await create(toy, tmp_path, die_at=2, resume=True, hand_in="count")
        await until(lambda: toy.store.get(job.name).status.attempt == 2)
        await until(lambda: toy.store.get(job.name).state == QUEUED)
        if cancel:
            assert (await toy.engine.cancel(job.name)).state == CANCELLING
    async with serving(ToyService(tmp_path / "state")) as again:
        assert states(await watch(again, job.name))[-1] == FAILED
    assert toy.store.get(job.name).status.error.reason == "WORKER_DIED"
    assert verify(tmp_path / "result").metrics["steps"] == 2


async def test_a_worker_that_the_machine_can_not_start_now_is_started_later(tmp_path: Path) -> None:
    """More often than a job's workers may die, and with what the attempts before had saved."""
    executor = FullDisk(tmp_path / "state", first=2)
    settings = EngineSettings(start_again=0.1, poll_interval=0.05)
    async with serving(ToyService(tmp_path / "state", settings, executor=executor)) as toy:
        job = await create(toy, tmp_path, die_at=2, resume=True)
        await until(lambda: toy.store.get(job.name).status.attempt > 5)
        executor.full = False
        events = await watch(toy, job.name)
    assert states(events)[-1] == SUCCEEDED
    assert "Attempt 2: the worker can't be started ([Errno 28] No space left on device). Trying again" in said(events)
    last = toy.store.get(job.name).status.attempt
    assert [e.metrics.step for e in events if e.metrics.attempt == last] == [3]


async def test_others_go_on_while_a_job_waits_for_the_machine(tmp_path: Path) -> None:
    executor = FullDisk(tmp_path / "state", first=1)
    async with serving(ToyService(tmp_path / "state", executor=executor)) as toy:
        waiting = await create(toy, tmp_path)
        await until(lambda: "can't be started" in said(toy.store.events(waiting.name)))
        executor.full = False
        other = await create(toy, tmp_path, destination=str(tmp_path / "other"))
        assert states(await watch(toy, other.name))[-1] == SUCCEEDED
        assert toy.store.get(waiting.name).state == QUEUED
        assert toy.store.get(waiting.name).crashes == 0
