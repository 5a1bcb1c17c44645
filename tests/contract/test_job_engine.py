"""The job engine with real worker processes over real gRPC; workers and services are killed for real."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from finery.artifacts.v1.artifacts_pb2 import Artifact
from finery.jobs.v1.worker_pb2 import ReportRequest
from finery_shared.artifacts import verify
from finery_shared.errors import FineryError, Reason
from finery_shared.jobs.patience import EngineSettings
from finery_shared.jobs.schema import open_sqlite
from finery_shared.jobs.states import CANCELLED, FAILED, FINAL, QUEUED, RUNNING, SUCCEEDED
from finery_shared.jobs.store import JobStore
from tests.fakes.toy_jobs import PATIENCE, Process, create, states, watch
from tests.fakes.toy_service import ToyService


@pytest.fixture
async def toy(tmp_path: Path) -> AsyncIterator[ToyService]:
    service = ToyService(tmp_path / "state", EngineSettings(cancel_grace=1, exit_grace=5, heartbeat=0.3))
    await service.start()
    yield service
    await service.stop()


async def test_a_job_runs_and_publishes(toy: ToyService, tmp_path: Path) -> None:
    job = await create(toy, tmp_path)
    assert job.state == QUEUED
    events = await watch(toy, job.name)
    assert states(events) == [QUEUED, RUNNING, SUCCEEDED]
    assert [e.metrics.values["value"] for e in events if e.HasField("metrics")] == [0.5, 1.0, 1.5]
    assert [e.log.text for e in events if e.HasField("log")] == ["counted"]
    record = toy.store.get(job.name)
    assert record.status.latest_metrics["steps"] == 3.0
    assert record.status.progress.fraction == 1.0
    output = Artifact.FromString(record.output or b"")
    assert output.uri == (tmp_path / "result").as_uri()
    assert verify(tmp_path / "result").metrics == {"steps": 3.0}
    assert not (tmp_path / ".staging").exists()


async def test_a_watch_resumed_at_any_event_misses_nothing(toy: ToyService, tmp_path: Path) -> None:
    job = await create(toy, tmp_path)
    events = [e for e in await watch(toy, job.name) if not e.HasField("heartbeat")]
    assert [int(e.resume_token) for e in events] == list(range(1, len(events) + 1))
    for i, event in enumerate(events):
        assert await watch(toy, job.name, event.resume_token) == events[i + 1 :]


async def test_an_idle_watch_beats(toy: ToyService, tmp_path: Path) -> None:
    job = await create(toy, tmp_path, steps=1, pause=2.0)
    events = await watch(toy, job.name)
    assert any(e.HasField("heartbeat") for e in events)


@pytest.mark.parametrize(
    ("token", "reason"), [("x", Reason.RESUME_TOKEN_INVALID), ("999", Reason.RESUME_TOKEN_EXPIRED)]
)
async def test_a_strange_resume_token_is_refused(toy: ToyService, tmp_path: Path, token: str, reason: Reason) -> None:
    job = await create(toy, tmp_path)
    with pytest.raises(FineryError) as caught:
        await watch(toy, job.name, token)
    assert caught.value.reason is reason


async def test_a_failure_is_told_and_leaves_nothing(toy: ToyService, tmp_path: Path) -> None:
    job = await create(toy, tmp_path, fail="the toy gate refused")
    assert states(await watch(toy, job.name))[-1] == FAILED
    error = toy.store.get(job.name).status.error
    assert (error.reason, error.message, dict(error.metadata)) == (
        "GATE_FAILED",
        "the toy gate refused",
        {"gate": "toy"},
    )
    assert not (tmp_path / "result").exists()
    assert not (tmp_path / ".staging").exists()


async def test_bytes_changed_after_the_manifest_fail_the_job(toy: ToyService, tmp_path: Path) -> None:
    job = await create(toy, tmp_path, corrupt=True)
    assert states(await watch(toy, job.name))[-1] == FAILED
    error = toy.store.get(job.name).status.error
    assert error.reason == "DATA_LOSS"
    assert "data.txt" in error.message
    assert not (tmp_path / "result").exists()


async def test_a_killed_worker_is_tried_again(toy: ToyService, tmp_path: Path) -> None:
    job = await create(toy, tmp_path, die_at=2, die_attempts=1)
    events = await watch(toy, job.name)
    assert states(events) == [QUEUED, RUNNING, QUEUED, RUNNING, SUCCEEDED]
    record = toy.store.get(job.name)
    assert record.status.attempt == 2
    assert any("SIGKILL" in e.log.text for e in events)
    assert [e.metrics.values["value"] for e in events if e.metrics.attempt == 2] == [0.5, 1.0, 1.5]


async def test_what_a_killed_worker_kept_as_state_is_there_for_the_next_attempt(
    toy: ToyService, tmp_path: Path
) -> None:
    job = await create(toy, tmp_path, die_at=2, die_attempts=1, resume=True)
    events = await watch(toy, job.name)
    assert states(events)[-1] == SUCCEEDED
    assert [e.metrics.step for e in events if e.metrics.attempt == 2] == [3]
    assert not (tmp_path / ".staging").exists()


async def test_what_a_worker_saw_stored_before_it_was_killed_is_there(toy: ToyService, tmp_path: Path) -> None:
    """The next attempt does not measure it again."""
    job = await create(toy, tmp_path, die_at=2, die_attempts=1, resume=True, flush=True)
    events = await watch(toy, job.name)
    assert states(events)[-1] == SUCCEEDED
    assert [(e.metrics.attempt, e.metrics.step) for e in events if e.HasField("metrics")] == [(1, 1), (1, 2), (2, 3)]


async def test_a_job_that_gets_further_each_time_is_not_given_up(toy: ToyService, tmp_path: Path) -> None:
    """Three attempts without progress would end it; this one needs four."""
    job = await create(toy, tmp_path, steps=6, pause=0.8, die_every=2, resume=True)
    assert states(await watch(toy, job.name))[-1] == SUCCEEDED
    assert toy.store.get(job.name).status.attempt == 4


async def test_a_worker_that_always_dies_fails_its_job(toy: ToyService, tmp_path: Path) -> None:
    job = await create(toy, tmp_path, die_at=1)
    events = await watch(toy, job.name)
    assert states(events) == [QUEUED, RUNNING, QUEUED, RUNNING, QUEUED, RUNNING, FAILED]
    assert toy.store.get(job.name).status.error.reason == "WORKER_DIED"


async def test_cancel_running_and_queued(toy: ToyService, tmp_path: Path) -> None:
    running = await create(toy, tmp_path, steps=10_000, pause=0.05)
    queued = await create(toy, tmp_path)
    async with asyncio.timeout(PATIENCE):
        async for event in toy.engine.watch(running.name, ""):
            if event.HasField("metrics"):
                break
    assert (await toy.engine.cancel(queued.name)).state == CANCELLED
    await toy.engine.cancel(running.name)
    assert states(await watch(toy, running.name))[-1] == CANCELLED
    assert states(await watch(toy, queued.name)) == [QUEUED, CANCELLED]
    assert not (tmp_path / ".staging").exists()
    await toy.engine.cancel(running.name)
    assert toy.store.get(running.name).state == CANCELLED


async def test_a_worker_deaf_to_cancel_is_killed(toy: ToyService, tmp_path: Path) -> None:
    job = await create(toy, tmp_path, steps=1, pause=600)
    async with asyncio.timeout(PATIENCE):
        async for event in toy.engine.watch(job.name, ""):
            if event.HasField("metrics"):
                break
    await toy.engine.cancel(job.name)
    assert states(await watch(toy, job.name))[-1] == CANCELLED


async def test_a_stale_worker_is_fenced(toy: ToyService, tmp_path: Path) -> None:
    job = await create(toy, tmp_path, steps=200, pause=0.05)
    async with asyncio.timeout(PATIENCE):
        while toy.store.get(job.name).state != RUNNING:
            await asyncio.sleep(0.05)
    for attempt, secret in ((1, "wrong"), (2, toy.store.get(job.name).secret or "")):
        with pytest.raises(FineryError) as caught:
            await toy.engine.report(ReportRequest(job=job.name, attempt=attempt, secret=secret))
        assert caught.value.reason is Reason.ATTEMPT_FENCED
    await toy.engine.cancel(job.name)
    await watch(toy, job.name)


async def test_create_is_idempotent_by_request_id(toy: ToyService, tmp_path: Path) -> None:
    spec = json.dumps({"steps": 1, "destination": str(tmp_path / "result")}).encode()
    first = await toy.engine.create(spec, str(tmp_path), "an-id", spec)
    assert (await toy.engine.create(spec, str(tmp_path), "an-id", spec)).name == first.name
    with pytest.raises(FineryError) as caught:
        await toy.engine.create(b"{}", str(tmp_path), "an-id", b"{}")
    assert caught.value.reason is Reason.REQUEST_ID_REUSED
    await watch(toy, first.name)


async def test_a_second_owner_is_refused(toy: ToyService, tmp_path: Path) -> None:
    second = ToyService(tmp_path / "state")
    with pytest.raises(FineryError) as caught:
        await second.start()
    assert caught.value.reason is Reason.ALREADY_RUNNING
    assert str(os.getpid()) in caught.value.message
    await second.stop()


def test_delete_and_pages(tmp_path: Path) -> None:
    store = JobStore(open_sqlite(tmp_path / "jobs.db"), "toys")
    names = [store.create(b"%d" % i, str(tmp_path)).name for i in range(5)]
    first, token = store.list_jobs(2)
    second, token2 = store.list_jobs(2, token)
    third, end = store.list_jobs(2, token2)
    assert [r.name for r in [*first, *second, *third]] == names[::-1]
    assert end == ""
    with pytest.raises(FineryError) as caught:
        store.delete(names[0])
    assert caught.value.reason is Reason.JOB_NOT_FINISHED
    store.request_cancel(names[0])
    store.delete(names[0])
    with pytest.raises(FineryError) as caught:
        store.get(names[0])
    assert caught.value.reason is Reason.JOB_NOT_FOUND


def test_a_stopped_service_takes_its_worker_along_and_goes_on_later(service: Process, tmp_path: Path) -> None:
    store = JobStore(open_sqlite(tmp_path / "state" / "jobs.db"), "toys")
    plan = {"steps": 20, "pause": 0.1, "destination": str(tmp_path / "result")}
    job = store.create(json.dumps(plan).encode(), str(tmp_path)).name
    deadline = time.monotonic() + PATIENCE
    while not (handle := store.get(job).handle):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert service.end() == 0
    assert store.get(job).state == QUEUED
    assert not Path(f"/proc/{handle.partition(':')[0]}").exists()
    service.start()
    while store.get(job).state not in FINAL:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert store.get(job).state == SUCCEEDED
    assert service.end() == 0
