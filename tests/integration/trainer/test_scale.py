"""Training by two ranks on a CPU, with and without DeepSpeed: they end where one process by itself ends."""

import os
import signal
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from finery.artifacts.v1.artifacts_pb2 import Devices
from finery.jobs.v1.jobs_pb2 import JobState
from finery.trainer.v1 import trainer_pb2 as pb
from finery_shared.artifacts import verify
from finery_shared.jobs.schema import open_sqlite
from finery_shared.jobs.store import JobStore
from tests.integration.trainer.harness import Trainer
from tests.integration.trainer.test_jobs import directory, qwen, spec

STEPS = 6


def job_of(output: Path, model: Path, ranks: int, deepspeed: str = "", steps: int = STEPS) -> pb.TrainingSpec:
    """Four rows a step, however many ranks share them; nothing random but the order of the rows."""
    job = spec(output, qwen(model), steps, save_steps=2)
    job.datasets[:] = ["general-en#40"]
    job.lora.dropout = 0
    job.dtype = "fp32"
    job.deepspeed = deepspeed
    job.devices.MergeFrom(Devices(nproc_per_node=ranks))
    job.optimization.batch_size = 2
    job.optimization.gradient_accumulation_steps = 2 // ranks
    job.optimization.learning_rate = 1e-3
    job.optimization.lr_scheduler_type = "constant"
    job.optimization.warmup_ratio = 0
    return job


def ranks_of(root: Path, name: str) -> list[psutil.Process]:
    """The processes of a running job's ranks, the first one first."""
    store = JobStore(open_sqlite(root / "home" / "trainer" / "jobs.db"), "trainingJobs")
    handle = store.get(name).handle
    assert handle is not None
    children = psutil.Process(int(handle.partition(":")[0])).children()
    return sorted(children, key=lambda process: int(process.environ()["RANK"]))


async def see_step(trainer: Trainer, name: str, step: int) -> None:
    """Wait until a job has made that many steps."""
    async for event in trainer.events(name):
        if event.progress.phase == "training" and event.progress.step >= step:
            return


async def kill_a_rank(trainer: Trainer, root: Path, name: str, *, after: int) -> None:
    """SIGKILL the second rank once a step is done, and see that the other one goes too."""
    await see_step(trainer, name, after)
    ranks = ranks_of(root, name)
    assert len(ranks) == 2
    os.kill(ranks[1].pid, signal.SIGKILL)
    gone, _ = psutil.wait_procs(ranks, timeout=60)
    assert len(gone) == 2


async def losses(trainer: Trainer, name: str) -> dict[int, float]:
    """The training loss of each step."""
    return {m.step: m.values["loss"] for m in await trainer.metrics(name) if "loss" in m.values}


def adapter_of(job: pb.TrainingJob) -> dict[str, torch.Tensor]:
    """The tensors of the last checkpoint that a job published."""
    checkpoint = directory(job.output.last_checkpoint.uri)
    assert verify(checkpoint).recipe["nproc_per_node"] == job.spec.devices.nproc_per_node
    assert not [file for file in checkpoint.rglob("*") if file.suffix in (".pt", ".pth", ".bin")], "no pickles"
    return load_file(checkpoint / "adapter_model.safetensors")


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest difference between two adapters' values."""
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


async def succeeded(trainer: Trainer, name: str) -> pb.TrainingJob:
    job = await trainer.finished(name)
    assert job.status.state == JobState.JOB_STATE_SUCCEEDED, job.status.error
    return job


async def test_ranks_end_where_one_process_ends(trainer: Trainer, tiny_qwen: Path, tmp_path: Path) -> None:
    """Data parallel; ZeRO-3, with a rank killed on the way; and ZeRO-2, cancelled later than one process ends."""
    alone, parallel, zero3 = [
        await trainer.create(job_of(tmp_path / kind, tiny_qwen, ranks, deepspeed))
        for kind, ranks, deepspeed in (("alone", 1, ""), ("parallel", 2, ""), ("zero3", 2, "default-zero3"))
    ]
    zero2 = await trainer.create(job_of(tmp_path / "zero2", tiny_qwen, 2, "default-zero2", steps=100_000))
    reference = await succeeded(trainer, alone)
    expected = await losses(trainer, alone)
    assert expected.keys() == set(range(1, STEPS + 1))
    weights = adapter_of(reference)

    job = await succeeded(trainer, parallel)
    assert len(await trainer.metrics(parallel)) == len(await trainer.metrics(alone)), "one rank reports"
    assert await losses(trainer, parallel) == pytest.approx(expected, abs=1e-4)
    assert distance(adapter_of(job), weights) < 1e-5

    await kill_a_rank(trainer, tmp_path, zero3, after=3)
    job = await succeeded(trainer, zero3)
    assert job.status.attempt == 2
    assert await losses(trainer, zero3) == pytest.approx(expected, abs=1e-3)
    assert distance(adapter_of(job), weights) < 1e-5, "ZeRO-3 saves whole tensors"
    assert not (tmp_path / "zero3" / ".staging").exists()

    await see_step(trainer, zero2, STEPS)
    ranks = ranks_of(tmp_path, zero2)
    await trainer.cancel(zero2)
    job = await trainer.finished(zero2)
    assert job.status.state == JobState.JOB_STATE_CANCELLED, job.status.error
    assert len(psutil.wait_procs(ranks, timeout=60)[0]) == 2
    reported = await losses(trainer, zero2)
    assert {step: reported[step] for step in expected} == pytest.approx(expected, abs=1e-4)
    assert {name: tensor.shape for name, tensor in adapter_of(job).items()} == {
        name: tensor.shape for name, tensor in weights.items()
    }


async def test_a_killed_rank_goes_on_with_its_own_random_numbers(
    faulty_trainer: Trainer, tiny_qwen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data parallel, with much dropout, which each rank draws for itself."""
    jobs = []
    for name, fault in (("alone", "none"), ("killed", "die-after 5")):
        monkeypatch.setenv("FINERY_TEST_FAULT", fault)
        job = job_of(tmp_path / name, tiny_qwen, 2)
        job.lora.dropout = 0.5
        job.schedule.save_steps = 4
        jobs.append(await succeeded(faulty_trainer, await faulty_trainer.create(job)))
    alone, killed = jobs
    assert (alone.status.attempt, killed.status.attempt) == (1, 2)
    expected = await losses(faulty_trainer, alone.name)
    assert expected.keys() == set(range(1, STEPS + 1))
    assert await losses(faulty_trainer, killed.name) == pytest.approx(expected, abs=1e-3)
    assert distance(adapter_of(killed), adapter_of(alone)) < 1e-5


async def test_a_failure_of_any_rank_is_the_jobs(
    faulty_trainer: Trainer, tiny_qwen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second rank says why it failed, and the job isn't tried again."""
    monkeypatch.setenv("FINERY_TEST_FAULT", "second-rank")
    job = await faulty_trainer.finished(await faulty_trainer.create(job_of(tmp_path / "out", tiny_qwen, 2)))
    assert job.status.state == JobState.JOB_STATE_FAILED
    assert (job.status.error.reason, job.status.error.message) == ("DISK_FULL", "No room for the second rank.")
    assert job.status.attempt == 1
