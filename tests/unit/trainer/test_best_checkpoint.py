"""Which checkpoint a run hands in as its best: by loss where there are rows enough to tell, else the last."""

import base64
import json
import os
from pathlib import Path

import pytest

from finery.artifacts.v1.artifacts_pb2 import ModelSource
from finery.trainer.v1 import trainer_pb2 as pb
from finery_shared.jobs.executor import Task
from finery_shared.jobs.reporter import Silence
from finery_shared.jobs.worker import WorkerContext
from finery_trainer.convert import BEST, LAST
from finery_trainer.worker import train
from tests.fakes.tiny_qwen import ANSWER, write_tiny_qwen


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_qwen(tmp_path_factory.mktemp("models") / "tiny-qwen")


def write(path: Path, answers: list[str]) -> str:
    path.write_text("".join(json.dumps({"query": "Who?", "response": answer}) + "\n" for answer in answers))
    return str(path)


@pytest.mark.parametrize(("least", "best"), [("4", "checkpoint-4"), ("3", "checkpoint-2")])
def test_the_loss_of_few_rows_does_not_decide(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, least: str, best: str
) -> None:
    """The model knows the three answers that are evaluated, and unlearns them."""
    roots = os.pathsep.join(map(str, (tmp_path, model)))
    given = {"FINERY_HOME": str(tmp_path / "home"), "FINERY_TRAINER_ALLOWED_ROOTS": roots}
    given |= {"FINERY_TRAINER_MIN_EVAL_ROWS": least, "FINERY_TRAINER_QUESTIONS_ON_CPU": "1"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    spec = pb.TrainingSpec(
        model=ModelSource(model_type="qwen1half-7b-chat", model_id_or_path=str(model)),
        datasets=[write(tmp_path / "train.jsonl", ["Me, of course!"] * 8)],
        val_datasets=[write(tmp_path / "val.jsonl", [ANSWER] * 3)],
        output_dir=str(tmp_path / "out"),
        optimization=pb.OptimizationSpec(max_steps=4, batch_size=2, gradient_accumulation_steps=1, learning_rate=3e-2),
        schedule=pb.ScheduleSpec(save_steps=2),
    )
    encoded = base64.b64encode(spec.SerializeToString()).decode()
    task = Task("trainingJobs/1", 1, "", encoded, str(tmp_path / "out" / ".staging" / "1" / "1"), "")
    outcome = train(WorkerContext(task, Silence()))
    named = {artifact.role: artifact.destination.name for artifact in outcome.artifacts}
    assert named[BEST] == best
    assert named.get(LAST, best) == "checkpoint-4"
