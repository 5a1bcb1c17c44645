"""fp8 on a GPU that has no fp8 products is refused before anything is tokenized or loaded."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from finery_shared.errors import FineryError, Reason
from finery_shared.jobs.executor import Task
from finery_shared.jobs.reporter import Silence
from finery_shared.jobs.worker import WorkerContext
from finery_trainer.bootstrap import make_planner
from finery_trainer.recipes.hardware import check_base_precision
from finery_trainer.recipes.sft import Sft
from finery_trainer.settings import TrainerSettings
from tests.unit.trainer.directories import write_small_files


def gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int] | None) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)


@pytest.mark.parametrize(
    ("capability", "reason"), [((8, 6), "this one has 8.6"), ((7, 5), "this one has 7.5"), (None, "torch finds none")]
)
def test_a_gpu_without_fp8_is_refused(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int] | None, reason: str
) -> None:
    gpu(monkeypatch, capability)
    check_base_precision("bf16")
    with pytest.raises(FineryError) as caught:
        check_base_precision("fp8")
    assert caught.value.reason is Reason.UNSUPPORTED
    assert caught.value.metadata["field"] == "base_precision"
    assert reason in caught.value.message
    assert "Leave --base_precision out" in caught.value.message


@pytest.mark.parametrize("capability", [(8, 9), (9, 0), (10, 0)])
def test_a_gpu_with_fp8_is_let_through(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
    gpu(monkeypatch, capability)
    check_base_precision("fp8")


def test_a_job_is_refused_first_of_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    planner = make_planner(TrainerSettings(home=tmp_path / "home", allowed_roots=(tmp_path,)))
    plan = planner.plan(
        {
            "model_type": "",
            "model_id_or_path": str(write_small_files(tmp_path / "chat")),
            "datasets": ("general-en#3",),
            "output_dir": str(tmp_path / "out"),
        }
    )
    plan = replace(plan, spec=plan.spec.model_copy(update={"base_precision": "fp8"}))
    context = WorkerContext(Task("trainingJobs/1", 1, "", "", str(tmp_path / "staging" / "1"), ""), Silence())
    attempt, data = Sft(plan, 1, 1, context), planner.load_data(plan.spec)
    gpu(monkeypatch, (8, 0))
    with pytest.raises(FineryError, match="fp8 products need a GPU"):
        attempt.run(data)
