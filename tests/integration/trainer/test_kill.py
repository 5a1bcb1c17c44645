"""Worker and service are killed for real; what the job leaves is what it would have left without."""

import json
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


def kill_worker(root: Path, name: str) -> None:
    store = JobStore(open_sqlite(root / "home" / "trainer" / "jobs.db"), "trainingJobs")
    handle = store.get(name).handle
    assert handle is not None
    os.kill(int(handle.partition(":")[0]), signal.SIGKILL)


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

    ours, theirs = (directory(j.output.last_checkpoint.uri) for j in (job, alone))
    assert verify(ours).job == name
    mine, other = (load_file(path / "adapter_model.safetensors") for path in (ours, theirs))
    assert mine.keys() == other.keys()
    assert max(abs(mine[key] - other[key]).max() for key in mine) <= 1e-5
    written = [json.loads(line) for line in (ours.parent / "logging.jsonl").read_text().splitlines()]
    assert [line["step"] for line in written if line.get("phase") == "train"] == list(range(1, STEPS + 1))
    assert written[-1]["last_model_checkpoint"] == str(ours)
    assert not (tmp_path / "killed" / ".staging").exists()
