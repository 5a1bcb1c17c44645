"""The training loop on a tiny model: it learns, repeats itself, evaluates what it saves, stops when asked."""

import math
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from finery_shared.errors import FineryError, Reason
from finery_trainer.recipes.reporting import JobCallback
from tests.unit.trainer.runs import RecordingContext, run


def test_the_loss_falls_and_every_checkpoint_is_evaluated(tmp_path: Path) -> None:
    context = RecordingContext()
    result = run(tmp_path, context, num_train_epochs=10.0, save_steps=25, eval_steps=30)
    losses = context.losses()
    assert len(losses) == 40
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    assert context.steps == list(range(41))
    evaluated = context.evaluated()
    assert evaluated.keys() == {25, 30, 40}
    assert [(c.step, c.eval_loss) for c in result.checkpoints] == [(25, evaluated[25]), (40, evaluated[40])]
    assert result.train_loss == pytest.approx(sum(losses) / 40)
    assert all((c.path / "adapter_model.safetensors").is_file() for c in result.checkpoints)


def test_the_same_seed_gives_the_same_losses_and_another_does_not(tmp_path: Path) -> None:
    contexts = [RecordingContext() for _ in range(3)]
    for i, (context, seed) in enumerate(zip(contexts, (5, 5, 6), strict=True)):
        run(tmp_path / str(i), context, evaluate=False, max_steps=4, seed=seed)
    first, second, other = (context.losses() for context in contexts)
    assert first == second
    assert first != other


def test_accumulated_batches_count_every_token_alike(tmp_path: Path) -> None:
    whole, halves = RecordingContext(), RecordingContext()
    given: dict[str, Any] = {"evaluate": False, "max_steps": 2, "lora_dropout": 0.0}
    run(tmp_path / "a", whole, batch_size=16, **given)
    run(tmp_path / "b", halves, batch_size=8, gradient_accumulation_steps=2, **given)
    assert whole.losses() == pytest.approx(halves.losses(), rel=1e-4)


def test_noise_on_the_embeddings_is_there_in_training_and_not_in_evaluation(tmp_path: Path) -> None:
    """At a rate that moves nothing, so that the noise alone can change a loss."""
    plain, noisy = RecordingContext(), RecordingContext()
    given: dict[str, Any] = {"max_steps": 2, "save_steps": 1, "learning_rate": 1e-12}
    run(tmp_path / "plain", plain, **given)
    run(tmp_path / "noisy", noisy, neftune_noise_alpha=5.0, **given)
    assert all(abs(one - other) > 1e-3 for one, other in zip(noisy.losses(), plain.losses(), strict=True))
    assert noisy.evaluated() == pytest.approx(plain.evaluated(), rel=1e-6)


def test_only_the_latest_checkpoints_are_kept(tmp_path: Path) -> None:
    result = run(tmp_path, RecordingContext(), evaluate=False, max_steps=9, save_steps=2, save_total_limit=2)
    assert [c.step for c in result.checkpoints] == [8, 9]
    assert [c.eval_loss for c in result.checkpoints] == [None, None]


def test_a_cancelled_run_ends_after_its_step_and_saves_it(tmp_path: Path) -> None:
    context = RecordingContext(cancel_at=3)
    result = run(tmp_path, context, max_steps=50, save_steps=2)
    assert context.steps[-1] == 3
    assert [c.step for c in result.checkpoints] == [2, 3]


@pytest.mark.parametrize("logs", [{"loss": math.nan}, {"loss": math.inf}, {"eval_loss": math.nan}])
def test_a_loss_that_is_no_number_ends_the_run(tmp_path: Path, logs: dict[str, float]) -> None:
    context = RecordingContext()
    callback = JobCallback(context, evaluates=True)  # type: ignore[arg-type]
    state = TrainerState(global_step=7)
    with pytest.raises(FineryError, match="step 7") as caught:
        callback.on_log(TrainingArguments(str(tmp_path)), state, TrainerControl(), logs)
    assert (caught.value.reason, caught.value.metadata["gate"]) == (Reason.GATE_FAILED, "loss")
    assert context.measured == []
