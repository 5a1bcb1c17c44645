"""Worker and service are killed for real; what the job leaves is what it would have left without."""

import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from finery.jobs.v1.jobs_pb2 import JobEvent, JobState
from finery.trainer.v1 import trainer_pb2 as pb
from finery_shared.artifacts import verify
from finery_shared.jobs.schema import open_sqlite
from finery_shared.jobs.store import JobStore
from tests.integration.trainer.harness import ServiceProcess, Trainer
from tests.integration.trainer.test_jobs import directory, qwen, spec

STEPS = 120
"""Many: reports come once a second, and a kill has to fall between the first steps and the last."""


@pytest.fixture
async def killable(tmp_path: Path, tiny_qwen: Path) -> AsyncIterator[tuple[ServiceProcess, Trainer]]:
    process = ServiceProcess(tmp_path, [tiny_qwen.parent])
    trainer = Trainer(process)
    await trainer.start()
    yield process, trainer
    await trainer.stop()


def long_job(output: Path, model: Path) -> pb.TrainingSpec:
    job = spec(output, qwen(model), STEPS, save_steps=10)
    job.datasets[:] = ["general-en#40"]
    job.lora.dropout = 0.1
    job.schedule.save_total_limit = 1
    return job


def short_job(output: Path, model: Path) -> pb.TrainingSpec:
    """A job in which random numbers matter from the second step on."""
    job = spec(output, qwen(model), 8, save_steps=2)
    job.datasets[:] = ["general-en#40"]
    job.lora.dropout = 0.5
    job.optimization.learning_rate = 1e-3
    job.optimization.lr_scheduler_type = "constant"
    job.optimization.warmup_ratio = 0
    return job


def worker_of(root: Path, name: str) -> int:
    """The pid of a running job's worker."""
    store = JobStore(open_sqlite(root / "home" / "trainer" / "jobs.db"), "trainingJobs")
    handle = store.get(name).handle
    assert handle is not None
    return int(handle.partition(":")[0])


def kill_worker(root: Path, name: str) -> None:
    os.kill(worker_of(root, name), signal.SIGKILL)


async def restart(process: ServiceProcess, trainer: Trainer) -> None:
    process.kill()
    await trainer.disconnect()
    await trainer.start()


async def see_step(trainer: Trainer, name: str, step: int, seen: list[JobEvent], attempt: int = 1) -> None:
    token = seen[-1].resume_token if seen else ""
    async for event in trainer.events(name, token):
        seen.append(event)
        if event.metrics.phase == "train" and event.metrics.attempt == attempt and event.metrics.step >= step:
            return


def all_losses(events: list[JobEvent]) -> list[tuple[int, float]]:
    """Of all attempts; a step that was made again is there again."""
    return [(e.metrics.step, e.metrics.values["loss"]) for e in events if "loss" in e.metrics.values]


def losses(events: list[JobEvent]) -> dict[int, float]:
    return dict(all_losses(events))


def adapter_of(job: pb.TrainingJob) -> dict[str, Any]:
    """The tensors of the last checkpoint that a job published."""
    checkpoint = directory(job.output.last_checkpoint.uri)
    assert verify(checkpoint).job == job.name
    return load_file(checkpoint / "adapter_model.safetensors")


def distance(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest difference between two adapters' values."""
    assert one.keys() == other.keys()
    return float(max(abs(one[key] - other[key]).max() for key in one))


async def test_killed_jobs_end_like_one_that_was_left_alone(
    killable: tuple[ServiceProcess, Trainer], tiny_qwen: Path, tmp_path: Path
) -> None:
    """The first job's service is killed, its worker goes on undisturbed. The second one's worker is killed, then both
    are; each time the run goes on at its last checkpoint.
    """
    process, trainer = killable
    left_alone = await trainer.create(long_job(tmp_path / "out", tiny_qwen))
    name = await trainer.create(long_job(tmp_path / "killed", tiny_qwen))
    undisturbed: list[JobEvent] = []
    await see_step(trainer, left_alone, 2, undisturbed)
    await restart(process, trainer)
    undisturbed += [event async for event in trainer.events(left_alone, undisturbed[-1].resume_token)]
    alone = await trainer.finished(left_alone)
    assert alone.status.state == JobState.JOB_STATE_SUCCEEDED, alone.status.error
    assert alone.status.attempt == 1
    assert undisturbed == [event async for event in trainer.events(left_alone)]
    expected = losses(undisturbed)
    assert expected.keys() == set(range(1, STEPS + 1))

    seen: list[JobEvent] = []
    await see_step(trainer, name, 12, seen)
    kill_worker(tmp_path, name)
    await see_step(trainer, name, 40, seen, attempt=2)
    kill_worker(tmp_path, name)
    await restart(process, trainer)
    seen += [event async for event in trainer.events(name, seen[-1].resume_token)]
    job = await trainer.finished(name)
    assert job.status.state == JobState.JOB_STATE_SUCCEEDED, job.status.error
    assert job.status.attempt == 3
    assert len([e for e in seen if "going on from step" in e.log.text]) == 2
    assert losses(seen).keys() == expected.keys()
    assert all(abs(loss - expected[step]) <= 1e-3 for step, loss in all_losses(seen))

    assert distance(adapter_of(job), adapter_of(alone)) <= 1e-5
    ours = directory(job.output.last_checkpoint.uri)
    written = [json.loads(line) for line in (ours.parent / "logging.jsonl").read_text().splitlines()]
    assert [line["step"] for line in written if line.get("phase") == "train"] == list(range(1, STEPS + 1))
    assert written[-1]["last_model_checkpoint"] == str(ours)
    assert not (tmp_path / "killed" / ".staging").exists()


async def test_a_worker_killed_while_it_saves_and_one_killed_before_its_first_save_go_on(
    faulty_trainer: Trainer, tiny_qwen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first finds half a checkpoint and the whole one before it. The second goes on from a published checkpoint,
    and finds nothing of its own.
    """

    async def run(fault: str, job: pb.TrainingSpec) -> tuple[pb.TrainingJob, list[JobEvent]]:
        monkeypatch.setenv("FINERY_TEST_FAULT", fault)
        name = await faulty_trainer.create(job)
        events = [event async for event in faulty_trainer.events(name)]
        ended = await faulty_trainer.finished(name)
        assert ended.status.state == JobState.JOB_STATE_SUCCEEDED, ended.status.error
        assert ended.status.attempt == (1 if fault == "none" else 2)
        return ended, events

    alone, events = await run("none", short_job(tmp_path / "alone", tiny_qwen))
    expected = losses(events)
    assert expected.keys() == set(range(1, 9))

    torn, events = await run("die-saving 4", short_job(tmp_path / "torn", tiny_qwen))
    assert [e.log.text for e in events if "going on from" in e.log.text] == ["going on from step 2"]
    assert losses(events).keys() == expected.keys()
    assert all(abs(loss - expected[step]) <= 1e-3 for step, loss in all_losses(events))
    assert distance(adapter_of(torn), adapter_of(alone)) <= 1e-5

    longer = short_job(tmp_path / "resumed", tiny_qwen)
    longer.resume_from_checkpoint = str(directory(alone.output.last_checkpoint.uri).with_name("checkpoint-6"))
    longer.schedule.save_steps = 100
    resumed, events = await run("die-after 7", longer)
    assert [e.log.text for e in events if "going on from" in e.log.text] == 2 * ["going on from step 6"]
    assert losses(events).keys() == {7, 8}
    assert all(abs(loss - expected[step]) <= 1e-3 for step, loss in all_losses(events))
    assert distance(adapter_of(resumed), adapter_of(alone)) <= 1e-5


async def test_a_cancelled_job_whose_worker_is_gone_keeps_what_was_saved(
    killable: tuple[ServiceProcess, Trainer], tiny_qwen: Path, tmp_path: Path
) -> None:
    """Gone by a kill that comes before the worker has heard of the cancellation, and by a stop of the service."""
    _, trainer = killable

    async def saved(output: str) -> str:
        job = spec(tmp_path / output, qwen(tiny_qwen), 100_000, save_steps=10)
        job.datasets[:] = ["general-en#40"]
        name = await trainer.create(job)
        await see_step(trainer, name, 12, [])
        return name

    def check(job: pb.TrainingJob, output: str) -> None:
        assert job.status.state == JobState.JOB_STATE_CANCELLED, job.status.error
        assert job.status.attempt == 2
        kept = directory(job.output.last_checkpoint.uri)
        assert int(kept.name.removeprefix("checkpoint-")) >= 10
        assert (kept / "resume").is_dir()
        assert all(np.isfinite(tensor).all() for tensor in adapter_of(job).values())
        logged = [json.loads(line) for line in (kept.parent / "logging.jsonl").read_text().splitlines()]
        assert logged[-1]["last_model_checkpoint"] == str(kept)
        assert {path.name for path in (tmp_path / output).iterdir()} == {"qwen1half-7b-chat"}

    name = await saved("killed")
    worker = worker_of(tmp_path, name)
    os.kill(worker, signal.SIGSTOP)
    await trainer.cancel(name)
    os.kill(worker, signal.SIGKILL)
    check(await trainer.finished(name), "killed")

    name = await saved("stopped")
    await trainer.stop()
    paused = Trainer(ServiceProcess(tmp_path, [tiny_qwen.parent], FINERY_TRAINER_MAX_RUNNING_JOBS="0"))
    await paused.start()
    try:
        await paused.cancel(name)
        check(await paused.finished(name), "stopped")
    finally:
        await paused.stop()
