"""Worker and service are killed for real; what the job leaves is what it would have left without."""

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from finery.jobs.v1.jobs_pb2 import JobEvent, JobState
from finery.trainer.v1 import trainer_pb2 as pb
from finery_shared.artifacts import verify
from finery_shared.jobs.schema import open_sqlite
from finery_shared.jobs.store import JobStore
from tests.integration.trainer.harness import ServiceProcess, Trainer
from tests.integration.trainer.test_jobs import directory, qwen, spec

STEPS = 14


@pytest.fixture
async def killable(tmp_path: Path, tiny_qwen: Path) -> AsyncIterator[tuple[ServiceProcess, Trainer]]:
    process = ServiceProcess(tmp_path, [tiny_qwen.parent])
    trainer = Trainer(process)
    await trainer.start()
    yield process, trainer
    await trainer.stop()


def long_job(output: Path, model: Path) -> pb.TrainingSpec:
    job = spec(output, qwen(model), STEPS, save_steps=3)
    job.datasets[:] = ["general-en#40"]
    job.lora.dropout = 0.1
    job.schedule.save_total_limit = 1
    return job


def kill_worker(root: Path, name: str) -> None:
    store = JobStore(open_sqlite(root / "home" / "trainer" / "jobs.db"), "trainingJobs")
    handle = store.get(name).handle
    assert handle is not None
    os.kill(int(handle.partition(":")[0]), signal.SIGKILL)


async def see_step(trainer: Trainer, name: str, step: int, seen: list[JobEvent]) -> None:
    token = seen[-1].resume_token if seen else ""
    async for event in trainer.events(name, token):
        seen.append(event)
        if event.progress.phase == "training" and event.progress.step >= step:
            return


def losses(events: list[JobEvent]) -> dict[int, float]:
    return {e.metrics.step: e.metrics.values["loss"] for e in events if "loss" in e.metrics.values}


async def test_a_job_killed_twice_ends_like_one_that_was_left_alone(
    killable: tuple[ServiceProcess, Trainer], tiny_qwen: Path, tmp_path: Path
) -> None:
    """First the worker is killed, then the service and its next worker; both times the run goes on at a checkpoint."""
    process, trainer = killable
    left_alone = await trainer.create(long_job(tmp_path / "out", tiny_qwen))
    name = await trainer.create(long_job(tmp_path / "killed", tiny_qwen))
    expected = [event async for event in trainer.events(left_alone)]
    alone = await trainer.finished(left_alone)
    assert alone.status.state == JobState.JOB_STATE_SUCCEEDED, alone.status.error

    seen: list[JobEvent] = []
    await see_step(trainer, name, 5, seen)
    kill_worker(tmp_path, name)
    await see_step(trainer, name, 8, seen)
    process.kill()
    kill_worker(tmp_path, name)
    await trainer.disconnect()
    await trainer.start()
    async for event in trainer.events(name, seen[-1].resume_token):
        seen.append(event)
    job = await trainer.finished(name)
    assert job.status.state == JobState.JOB_STATE_SUCCEEDED, job.status.error
    assert job.status.attempt == 3
    resumed = [e.log.text for e in seen if "going on from step" in e.log.text]
    assert len(resumed) == 2
    assert losses(seen).keys() == losses(expected).keys() == set(range(1, STEPS + 1))
    assert all(abs(loss - losses(expected)[step]) <= 1e-3 for step, loss in losses(seen).items())

    ours, theirs = (directory(j.output.last_checkpoint.uri) for j in (job, alone))
    assert verify(ours).job == name
    mine, other = (load_file(path / "adapter_model.safetensors") for path in (ours, theirs))
    assert mine.keys() == other.keys()
    assert max(abs(mine[key] - other[key]).max() for key in mine) <= 1e-5
    assert not (tmp_path / "killed" / ".staging").exists()
