"""Cancelling a job whose worker is gone: what it saved is handed in by another attempt."""

import os
import signal
from pathlib import Path

import pytest

from finery.jobs.v1.jobs_pb2 import JobEvent
from finery_shared.artifacts import verify
from finery_shared.jobs.patience import EngineSettings
from finery_shared.jobs.states import CANCELLED, CANCELLING, QUEUED
from tests.fakes.toy_jobs import create, serving, states, until, watch, worker_pid
from tests.fakes.toy_service import ToyService

PAUSED = EngineSettings(max_running_jobs=0)


async def saved(toy: ToyService, work: Path, hand_in: str = "count") -> str:
    """A running job whose worker has saved something."""
    job = await create(toy, work, steps=10_000, pause=0.05, resume=True, hand_in=hand_in)
    await until(lambda: list(work.glob(".staging/*/state/done")))
    return job.name


async def cancel_unheard(toy: ToyService, name: str) -> int:
    """Cancel a job while its worker can't hear of it; the worker's pid."""
    pid = worker_pid(toy.store.get(name))
    os.kill(pid, signal.SIGSTOP)
    assert (await toy.engine.cancel(name)).state == CANCELLING
    return pid


def said(events: list[JobEvent]) -> str:
    return " ".join(event.log.text for event in events if event.HasField("log"))


def handed_in(work: Path) -> int:
    """How far a cancelled job had counted, by the artifact that it left; nothing else is left."""
    assert {path.name for path in work.iterdir()} == {"state", "result"}
    return int(verify(work / "result").metrics["steps"])


async def test_a_job_that_waits_for_its_next_attempt_hands_in_what_the_last_one_saved(tmp_path: Path) -> None:
    """Also by a service that begins no jobs."""
    async with serving(ToyService(tmp_path / "state")) as toy:
        name = await saved(toy, tmp_path)
    assert toy.store.get(name).state == QUEUED
    async with serving(ToyService(tmp_path / "state", PAUSED)) as toy:
        assert (await toy.engine.cancel(name)).state == CANCELLING
        assert states(await watch(toy, name))[-1] == CANCELLED
    record = toy.store.get(name)
    assert record.status.attempt == 2 and record.output
    assert handed_in(tmp_path) >= 1


async def test_a_job_that_waits_and_has_saved_nothing_ends_at_once(tmp_path: Path) -> None:
    async with serving(ToyService(tmp_path / "state")) as toy:
        name = (await create(toy, tmp_path, steps=10_000, pause=0.05)).name
        await until(lambda: toy.store.get(name).handle)
    async with serving(ToyService(tmp_path / "state", PAUSED)) as toy:
        await toy.engine.cancel(name)
        assert states(await watch(toy, name))[-1] == CANCELLED
    assert toy.store.get(name).status.attempt == 1
    assert not (tmp_path / ".staging").exists()


async def test_a_worker_that_dies_while_it_is_cancelled_has_another_one_hand_in(tmp_path: Path) -> None:
    async with serving(ToyService(tmp_path / "state")) as toy:
        name = await saved(toy, tmp_path)
        os.kill(await cancel_unheard(toy, name), signal.SIGKILL)
        events = await watch(toy, name)
    assert set(states(events)[2:-1]) == {CANCELLING} and states(events)[-1] == CANCELLED
    assert "the worker was killed by SIGKILL. Another one hands in what it saved." in said(events)
    assert toy.store.get(name).status.attempt == 2
    assert handed_in(tmp_path) >= 1


async def test_a_service_that_is_stopped_while_it_cancels_hands_in_after_the_next_start(tmp_path: Path) -> None:
    async with serving(ToyService(tmp_path / "state")) as toy:
        name = await saved(toy, tmp_path)
        await cancel_unheard(toy, name)
    assert toy.store.get(name).state == CANCELLING
    async with serving(ToyService(tmp_path / "state")) as again:
        assert states(await watch(again, name))[-1] == CANCELLED
    assert handed_in(tmp_path) >= 1


@pytest.mark.parametrize(
    ("hand_in", "text"), [("die", "SIGKILL"), ("fail", "is not kept: the toy gate refused"), ("nothing", "")]
)
async def test_a_job_that_can_not_hand_in_is_cancelled_all_the_same(tmp_path: Path, hand_in: str, text: str) -> None:
    async with serving(ToyService(tmp_path / "state")) as toy:
        name = await saved(toy, tmp_path, hand_in)
        os.kill(await cancel_unheard(toy, name), signal.SIGKILL)
        events = await watch(toy, name)
    assert states(events)[-1] == CANCELLED
    assert text in said(events)
    record = toy.store.get(name)
    assert (record.status.attempt, record.output) == (2, None)
    assert {path.name for path in tmp_path.iterdir()} == {"state"}
