"""Training by two ranks on a CPU, with and without DeepSpeed: they end where one process by itself ends."""

import os
import signal
from pathlib import Path

import psutil
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

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
    return job


def ranks_of(root: Path, name: str) -> list[psutil.Process]:
    """The processes of a running job's ranks, the first one first."""
    store = JobStore(open_sqlite(root / "home" / "trainer" / "jobs.db"), "trainingJobs")
    handle = store.get(name).handle
    assert handle is not None
    children = psutil.Process(int(handle.partition(":")[0])).children()
    return sorted(children, key=lambda process: int(process.environ()["RANK"]))


async def kill_a_rank(trainer: Trainer, root: Path, name: str, *, after: int) -> None:
    """SIGKILL the second rank once a step is done, and see that the other one goes too."""
    async for event in trainer.events(name):
        if event.progress.phase == "training" and event.progress.step >= after:
            break
    ranks = ranks_of(root, name)
    assert len(ranks) == 2
    os.kill(ranks[1].pid, signal.SIGKILL)
    gone, _ = psutil.wait_procs(ranks, timeout=60)
    assert len(gone) == 2


async def losses(trainer: Trainer, name: str) -> dict[int, float]:
    """The training loss of each step."""
    return {m.step: m.values["loss"] for m in await trainer.metrics(name) if "loss" in m.values}


async def succeeded(trainer: Trainer, name: str) -> pb.TrainingJob:
    job = await trainer.finished(name)
    assert job.status.state == JobState.JOB_STATE_SUCCEEDED, job.status.error
    return job


async def test_ranks_end_where_one_process_ends(trainer: Trainer, tiny_qwen: Path, tmp_path: Path) -> None:
    """Data parallel, ZeRO-2, and ZeRO-3 with a rank killed on the way."""
    alone = await trainer.create(job_of(tmp_path / "alone", tiny_qwen, 1))
    several = {
        kind: await trainer.create(job_of(tmp_path / kind, tiny_qwen, 2, kind if "default" in kind else ""))
        for kind in ("ddp", "default-zero2", "default-zero3")
    }
    reference = await succeeded(trainer, alone)
    expected = await losses(trainer, alone)
    assert expected.keys() == set(range(1, STEPS + 1))
    weights = load_file(directory(reference.output.last_checkpoint.uri) / "adapter_model.safetensors")
    logits = {}
    for kind, name in several.items():
        killed = kind == "default-zero3"
        if killed:
            await kill_a_rank(trainer, tmp_path, name, after=3)
        job = await succeeded(trainer, name)
        assert job.status.attempt == (2 if killed else 1)
        reported = [m.step for m in await trainer.metrics(name) if "loss" in m.values]
        assert len(reported) == len(set(reported)) or killed, "one rank reports"
        assert await losses(trainer, name) == pytest.approx(expected, abs=1e-3), kind

        checkpoint = directory(job.output.last_checkpoint.uri)
        assert verify(checkpoint).recipe["deepspeed"] == (kind if "default" in kind else "")
        assert {path.suffix for path in checkpoint.rglob("*.p*t*")} <= {".json"}, "nothing pickled is published"
        own = load_file(checkpoint / "adapter_model.safetensors")
        assert own.keys() == weights.keys()
        assert all(own[key].shape == weights[key].shape for key in own), "ZeRO-3 saves whole tensors"
        assert max((own[key] - weights[key]).abs().max().item() for key in own) < 1e-4, kind
        assert not (tmp_path / kind / ".staging").exists()
        base = AutoModelForCausalLM.from_pretrained(tiny_qwen, dtype=torch.float32)
        with torch.inference_mode():
            logits[kind] = PeftModel.from_pretrained(base, checkpoint)(torch.tensor([[9707, 0, 198]])).logits
    assert torch.allclose(logits["default-zero3"], logits["ddp"], atol=1e-2)


async def test_a_cancelled_job_of_ranks_stops_them_all_and_keeps_its_checkpoint(
    trainer: Trainer, tiny_qwen: Path, tmp_path: Path
) -> None:
    name = await trainer.create(job_of(tmp_path / "out", tiny_qwen, 2, steps=100_000))
    async for event in trainer.events(name):
        if event.progress.phase == "training" and event.progress.step >= 1:
            break
    ranks = ranks_of(tmp_path, name)
    await trainer.cancel(name)
    job = await trainer.finished(name)
    assert job.status.state == JobState.JOB_STATE_CANCELLED
    assert verify(directory(job.output.last_checkpoint.uri)).job == name
    assert len(psutil.wait_procs(ranks, timeout=60)[0]) == 2


async def test_a_failure_of_any_rank_is_the_jobs(
    faulty_trainer: Trainer, tiny_qwen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second rank says why it failed, and the job isn't tried again."""
    monkeypatch.setenv("FINERY_TEST_FAULT", "second-rank")
    job = await faulty_trainer.finished(await faulty_trainer.create(job_of(tmp_path / "out", tiny_qwen, 2)))
    assert job.status.state == JobState.JOB_STATE_FAILED
    assert (job.status.error.reason, job.status.error.message) == ("DISK_FULL", "No room for the second rank.")
    assert job.status.attempt == 1
