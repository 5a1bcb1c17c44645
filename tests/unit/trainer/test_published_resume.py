"""Another job goes on from a published checkpoint, as the first one would have."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from finery_shared.artifacts import Kind, verify
from finery_shared.errors import FineryError, Reason
from finery_trainer.planning import TrainingPlan
from finery_trainer.recipes.checkpoints import describe
from finery_trainer.recipes.resume import pack_state, put_together, take_apart, unpack_state
from finery_trainer.recipes.saved import read_state, whole_checkpoints
from finery_trainer.recipes.training import check_unfinished, train
from finery_trainer.recipes.tuning import tuning_of
from finery_trainer.resuming import check_resumable
from tests.unit.trainer.runs import RecordingContext
from tests.unit.trainer.test_tuning import ROWS, base, plan

__all__ = ["base"]

GIVEN: dict[str, Any] = {"max_steps": 8, "save_steps": 8, "lora_dropout": 0.3, "batch_size": 4}


def tuned(plan: TrainingPlan, output: Path, context: RecordingContext) -> Path:
    """Trains in bf16; the last checkpoint."""
    tuning = tuning_of(plan)
    torch.manual_seed(0)
    model = tuning.load(torch.bfloat16, None, sharded=False)
    autocast = tuning.autocast(torch.bfloat16, sharded=False)
    result = train(model, plan.spec, ROWS, [], output, context, autocast=autocast)  # type: ignore[arg-type]
    return result.last.path


def published(plan: TrainingPlan, saved: Path, target: Path) -> Path:
    tuning = tuning_of(plan)
    tuning.assemble(saved, target)
    pack_state(saved, target, weights=tuning.rounds)
    describe(target, tuning.kind, plan, "trainingJobs/1", {})
    return target


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_what_follows_is_what_would_have_followed(base: Path, tmp_path: Path, kind: str) -> None:
    whole, cut, rest = RecordingContext(), RecordingContext(cancel_at=3), RecordingContext()
    asked = plan(base, sft_type=kind, learning_rate=1e-3, **GIVEN)
    expected = tuned(asked, tmp_path / "whole", whole)
    checkpoint = published(asked, tuned(asked, tmp_path / "cut", cut), tmp_path / "checkpoint-3")
    assert verify(checkpoint).kind is (Kind.MODEL if kind == "full" else Kind.ADAPTER)
    assert {path.stat().st_mode & 0o444 for path in checkpoint.rglob("*") if path.is_file()} == {0o444}
    check_resumable(checkpoint, asked.spec)
    unpack_state(checkpoint, tmp_path / "new", lambda state: check_unfinished(state, asked.spec, len(ROWS)))
    assert [c.step for c in whole_checkpoints(tmp_path / "new")] == [3]
    last = tuned(asked, tmp_path / "new", rest)
    assert rest.steps[0] == 3
    assert rest.losses() == whole.losses()[3:]
    file = "model.safetensors" if kind == "full" else "adapter_model.safetensors"
    ours, theirs = load_file(last / file), load_file(expected / file)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)

    with pytest.raises(FineryError, match="at step 3, and this run has 3 in all"):
        check_unfinished(read_state(checkpoint / "resume"), plan(base, **{**GIVEN, "max_steps": 3}).spec, len(ROWS))
    (checkpoint / "resume" / "state.json").write_text("{}")
    with pytest.raises(FineryError) as caught:
        unpack_state(checkpoint, tmp_path / "again", lambda _state: None)
    assert caught.value.reason is Reason.DATA_LOSS


def test_another_run_is_refused_by_the_name_of_what_differs(base: Path, tmp_path: Path) -> None:
    asked = plan(base, **GIVEN)
    tuning_of(asked).assemble(tuned(asked, tmp_path / "out", RecordingContext(cancel_at=1)), tmp_path / "bare")
    describe(tmp_path / "bare", Kind.ADAPTER, asked, "trainingJobs/1", {})
    for field, value in (("learning_rate", 0.5), ("datasets", ("y",)), ("lora_rank", 3), ("batch_size", 2)):
        with pytest.raises(FineryError, match="was trained with") as caught:
            check_resumable(tmp_path / "bare", plan(base, **{**GIVEN, field: value}).spec)
        assert caught.value.metadata["field"] in (field, "gradient_accumulation_steps")
    with pytest.raises(FineryError, match="the other kind"):
        check_resumable(tmp_path / "bare", plan(base, sft_type="full", **GIVEN).spec)
    longer = plan(base, **{**GIVEN, "max_steps": 50, "save_steps": 3, "output_dir": "/elsewhere"})
    with pytest.raises(FineryError, match="no state to go on from") as caught:
        check_resumable(tmp_path / "bare", longer.spec)
    assert caught.value.reason is Reason.UNSUPPORTED


def test_states_are_taken_apart_and_put_together() -> None:
    state = {
        "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(2, 2)}, 1: {}},
        "param_groups": [{"lr": 0.1, "betas": (0.9, 0.95), "params": [0, 1], "name": None, "fused": False}],
        "numpy": ("MT19937", np.arange(4, dtype=np.uint32), np.int64(7)),
    }
    tensors: dict[str, torch.Tensor] = {}
    again = put_together(take_apart(state, "optimizer.pt", tensors), tensors)
    assert torch.equal(again["state"][0].pop("exp_avg"), torch.ones(2, 2))
    assert again["state"][0]["step"].item() == 3.0
    assert again["param_groups"] == state["param_groups"]
    assert again["numpy"][1].dtype == np.uint32
    assert again["numpy"][1].tolist() == [0, 1, 2, 3]
    with pytest.raises(TypeError, match=r"optimizer\.pt\.x"):
        take_apart({"x": object()}, "optimizer.pt", {})
