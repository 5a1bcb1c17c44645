"""A job that one service accepted is run by a later one, whatever directories that allows."""

import os
from pathlib import Path

import pytest

from finery.artifacts.v1.artifacts_pb2 import ModelSource
from finery.trainer.v1 import trainer_pb2 as pb
from finery_trainer.bootstrap import TrainerApplication
from finery_trainer.settings import TrainerSettings
from tests.integration.trainer.harness import ROOT, Trainer
from tests.unit.trainer.directories import write_small_files


def trainer(tmp_path: Path, allowed: Path, running: int) -> Trainer:
    settings = TrainerSettings(
        listen="127.0.0.1:0", home=tmp_path / "home", allowed_roots=(allowed,), max_running_jobs=running
    )
    return Trainer(TrainerApplication(settings, worker="tests.unit.trainer.planning_worker"))


async def test_a_job_keeps_the_directories_that_it_was_accepted_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    model = write_small_files(tmp_path / "one" / "my-chat")
    spec = pb.TrainingSpec(
        model=ModelSource(model_id_or_path=str(model)),
        datasets=["general-en#10"],
        output_dir=str(tmp_path / "one" / "output"),
    )
    first = trainer(tmp_path, tmp_path / "one", running=0)
    await first.start()
    name = await first.create(spec)
    await first.stop()

    second = trainer(tmp_path, tmp_path / "two", running=1)
    await second.start()
    said = [event.log.text async for event in second.events(name) if event.HasField("log")]
    error = (await second.finished(name)).status.error
    with pytest.raises(Exception, match="lies outside the directories"):
        await second.create(spec)
    await second.stop()
    assert (error.reason, error.message) == ("UNSUPPORTED", "It was only to plan.")
    assert said == [f"planned {model}"]
