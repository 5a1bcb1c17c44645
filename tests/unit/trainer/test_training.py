"""The training loop on a tiny model: it learns, repeats itself, evaluates what it saves, stops when asked."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from finery_shared.errors import FineryError, Reason
from finery_shared.models import Recipe
from finery_trainer.recipes.attention import register
from finery_trainer.recipes.reporting import JobCallback
from finery_trainer.recipes.rows import Row
from finery_trainer.recipes.training import TrainingResult, train
from finery_trainer.spec import fill


class RecordingContext:
    """Keeps what a run reports; asks it to stop after ``cancel_at`` steps."""

    def __init__(self, cancel_at: int | None = None) -> None:
        self.measured: list[tuple[int, str, dict[str, float]]] = []
        self.steps: list[int] = []
        self._cancel_at = cancel_at

    @property
    def cancel_requested(self) -> bool:
        return self._cancel_at is not None and max(self.steps, default=0) >= self._cancel_at

    def progress(self, step: int, total: int, phase: str) -> None:
        self.steps.append(step)

    def metrics(self, step: int, values: Mapping[str, float], phase: str = "train") -> None:
        self.measured.append((step, phase, dict(values)))

    def losses(self) -> list[float]:
        return [values["loss"] for _, _, values in self.measured if "loss" in values]


def run(output: Path, context: RecordingContext, *, evaluate: bool = True, **given: Any) -> TrainingResult:
    set_seed(1)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        attn_implementation=register(),
    )
    model = get_peft_model(
        LlamaForCausalLM(config), LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj", "up_proj"])
    )
    rows = [Row((1, 2, k, 5, k + 1, 3), (-100, -100, -100, -100, k + 1, 3)) for k in range(6, 26)]
    values = {"batch_size": 4, "gradient_accumulation_steps": 1, "learning_rate": 1e-2, "logging_steps": 1, **given}
    spec = fill({"datasets": ("x",), "output_dir": "/out", **values}, Recipe())
    return train(model, spec, rows[:16], rows[16:] if evaluate else [], output, context)  # type: ignore[arg-type]


def test_the_loss_falls_and_every_checkpoint_is_evaluated(tmp_path: Path) -> None:
    context = RecordingContext()
    result = run(tmp_path, context, num_train_epochs=10.0, save_steps=25, eval_steps=30)
    losses = context.losses()
    assert len(losses) == 40
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    assert context.steps == list(range(41))
    evaluated = {step: values["eval_loss"] for step, phase, values in context.measured if phase == "eval"}
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


def test_only_the_latest_checkpoints_are_kept(tmp_path: Path) -> None:
    result = run(tmp_path, RecordingContext(), evaluate=False, max_steps=9, save_steps=2, save_total_limit=2)
    assert [c.step for c in result.checkpoints] == [8, 9]
    assert [c.eval_loss for c in result.checkpoints] == [None, None]


def test_a_cancelled_run_ends_after_its_step(tmp_path: Path) -> None:
    context = RecordingContext(cancel_at=3)
    result = run(tmp_path, context, max_steps=50, save_steps=2)
    assert context.steps[-1] == 3
    assert [c.step for c in result.checkpoints] == [2]


@pytest.mark.parametrize("logs", [{"loss": math.nan}, {"loss": math.inf}, {"eval_loss": math.nan}])
def test_a_loss_that_is_no_number_ends_the_run(tmp_path: Path, logs: dict[str, float]) -> None:
    context = RecordingContext()
    callback = JobCallback(context, evaluates=True)  # type: ignore[arg-type]
    state = TrainerState(global_step=7)
    with pytest.raises(FineryError, match="step 7") as caught:
        callback.on_log(TrainingArguments(str(tmp_path)), state, TrainerControl(), logs)
    assert (caught.value.reason, caught.value.metadata["gate"]) == (Reason.GATE_FAILED, "loss")
    assert context.measured == []
