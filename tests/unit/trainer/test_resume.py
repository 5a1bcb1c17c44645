"""A run that was cut short goes on as if it had not been; what a crash left half done is not gone on from."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from transformers import TrainerControl, TrainerState, TrainingArguments

from finery_trainer.recipes.saved import SEAL, CheckpointKeeper, is_whole, whole_checkpoints
from tests.unit.trainer.runs import RecordingContext, run

GIVEN: dict[str, Any] = {"max_steps": 12, "save_steps": 3, "lora_dropout": 0.3, "eval_steps": 3}


class Crash(Exception):
    pass


class CrashingContext(RecordingContext):
    """Breaks off when a step is done."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self._step = step

    def progress(self, step: int, total: int, phase: str) -> None:
        super().progress(step, total, phase)
        if step == self._step:
            raise Crash


def crash(output: Path, step: int, **given: Any) -> CrashingContext:
    context = CrashingContext(step)
    with pytest.raises(Crash):
        run(output, context, **{**GIVEN, **given})
    return context


@pytest.mark.parametrize("accumulation", [1, 2])
def test_losses_and_adapter_are_those_of_a_run_without_a_break(tmp_path: Path, accumulation: int) -> None:
    """16 rows in batches of 4: the epoch's end lies between the crash and the checkpoint before it."""
    whole, rest = RecordingContext(), RecordingContext()
    given = {**GIVEN, "gradient_accumulation_steps": accumulation}
    expected = run(tmp_path / "whole", whole, **given)
    crash(tmp_path / "broken", 8, **given)
    result = run(tmp_path / "broken", rest, **given)
    assert rest.steps == list(range(6, 13))
    assert rest.losses() == whole.losses()[6:]
    assert [c.eval_loss for c in result.checkpoints] == [c.eval_loss for c in expected.checkpoints]
    assert result.train_loss == pytest.approx(expected.train_loss)
    ours, theirs = (load_file(r.last.path / "adapter_model.safetensors") for r in (result, expected))
    assert all((ours[name] == theirs[name]).all() for name in theirs)
    assert result.seconds > 0


def test_a_run_that_was_over_is_not_trained_on(tmp_path: Path) -> None:
    expected = run(tmp_path, RecordingContext(), **GIVEN)
    again = RecordingContext()
    result = run(tmp_path, again, **GIVEN)
    assert again.steps == []
    assert (result.checkpoints, result.train_loss) == (expected.checkpoints, expected.train_loss)


@pytest.mark.parametrize("damage", ["unsealed", "missing", "short"])
def test_half_a_checkpoint_is_passed_over(tmp_path: Path, damage: str) -> None:
    crash(tmp_path, 8)
    latest = tmp_path / "checkpoint-6"
    if damage == "unsealed":
        (latest / SEAL).unlink()
    elif damage == "missing":
        (latest / "optimizer.pt").unlink()
    else:
        (latest / "optimizer.pt").write_bytes(b"")
    assert not is_whole(latest)
    rest = RecordingContext()
    run(tmp_path, rest, **GIVEN)
    assert rest.steps[0] == 3


@pytest.mark.parametrize(
    ("limit", "by_loss", "kept"), [(2, True, [3, 12]), (3, True, [3, 9, 12]), (1, True, [12]), (2, False, [9, 12])]
)
def test_the_best_checkpoint_outlives_the_limit(tmp_path: Path, limit: int, by_loss: bool, kept: list[int]) -> None:
    keeper = CheckpointKeeper(tmp_path, limit, by_loss=by_loss, clock=lambda: 1.5)
    state = TrainerState(is_world_process_zero=True)
    for step, loss in ((3, 0.2), (6, 0.5), (9, 0.4), (12, 0.6)):
        state.global_step = step
        state.log_history.append({"step": step, "eval_loss": loss})
        (tmp_path / f"checkpoint-{step}").mkdir()
        state.save_to_json(str(tmp_path / f"checkpoint-{step}" / "trainer_state.json"))
        keeper.on_save(TrainingArguments(str(tmp_path)), state, TrainerControl())
    found = whole_checkpoints(tmp_path)
    assert [c.step for c in found] == kept
    assert found[-1].eval_loss == 0.6


def test_training_ends_when_the_loss_no_longer_falls(tmp_path: Path) -> None:
    context = RecordingContext()
    given = {**GIVEN, "learning_rate": 1.0, "early_stopping_patience": 1, "max_steps": 100}
    result = run(tmp_path, context, **given)
    assert result.last.step < 50
    assert result.last.eval_loss is not None
    assert any("no longer falls" in line for line in context.lines)
    again = RecordingContext()
    assert run(tmp_path, again, **given).last == result.last
    assert again.steps == []


def test_what_a_crash_left_behind_is_removed(tmp_path: Path) -> None:
    crash(tmp_path, 8)
    shutil.copytree(tmp_path / "checkpoint-6", tmp_path / "checkpoint-999")
    (tmp_path / "checkpoint-999" / SEAL).unlink()
    run(tmp_path, RecordingContext(), **GIVEN)
    assert [c.step for c in whole_checkpoints(tmp_path)][-1] == 12
    assert not (tmp_path / "checkpoint-999").exists()
