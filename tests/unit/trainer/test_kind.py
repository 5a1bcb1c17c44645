"""What the job engine is told of a training job, and what its worker gets of it."""

import os
from pathlib import Path

import pytest

from finery.artifacts.v1.artifacts_pb2 import Devices, ModelSource
from finery.jobs.v1.jobs_pb2 import JobState
from finery.trainer.v1 import trainer_pb2 as pb
from finery_trainer.bootstrap import TrainerApplication
from finery_trainer.kind import TrainingKind
from finery_trainer.settings import TrainerSettings
from tests.integration.trainer.harness import ROOT, Trainer
from tests.unit.trainer.directories import write_small_files


@pytest.mark.parametrize(
    ("devices", "deepspeed", "ranks"), [(1, "", 0), (3, "", 3), (1, "default-zero2", 1), (3, "default-zero2", 3)]
)
def test_ranks_are_one_for_each_device_unless_one_process_does(devices: int, deepspeed: str, ranks: int) -> None:
    spec = pb.TrainingSpec(devices=Devices(nproc_per_node=devices), deepspeed=deepspeed)
    assert TrainingKind().ranks(spec.SerializeToString()) == ranks


@pytest.mark.parametrize("asked", ["", "1", "0,2", None])
async def test_a_worker_sees_the_devices_that_were_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str | None
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    settings = TrainerSettings(listen="127.0.0.1:0", home=tmp_path / "home", allowed_roots=(tmp_path,))
    trainer = Trainer(TrainerApplication(settings, worker="tests.unit.trainer.looking_worker"))
    await trainer.start()
    spec = pb.TrainingSpec(
        model=ModelSource(model_id_or_path=str(write_small_files(tmp_path / "my-chat"))),
        datasets=["general-en#10"],
        output_dir=str(tmp_path / "output"),
        devices=Devices(cuda_visible_devices=asked),
    )
    name = await trainer.create(spec)
    said = [event.log.text async for event in trainer.events(name) if event.HasField("log")]
    job = await trainer.finished(name)
    await trainer.stop()
    assert job.status.state == JobState.JOB_STATE_FAILED
    assert said == [f"CUDA_VISIBLE_DEVICES={'7' if asked is None else asked}"]
