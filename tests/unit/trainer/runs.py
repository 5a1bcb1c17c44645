"""Short runs of the training loop on a tiny model, and a context that keeps what they report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, set_seed

from finery_shared.models import Recipe
from finery_trainer.recipes.attention import register
from finery_trainer.recipes.rows import Row
from finery_trainer.recipes.training import TrainingResult, train
from finery_trainer.recipes.watching import RunFiles
from finery_trainer.spec import fill

ROWS = [Row((1, 2, k, 5, k + 1, 3), (-100, -100, -100, -100, k + 1, 3)) for k in range(6, 26)]


class RecordingContext:
    """Keeps what a run reports; asks it to stop after ``cancel_at`` steps."""

    place = None

    def __init__(self, cancel_at: int | None = None) -> None:
        self.measured: list[tuple[int, str, dict[str, float]]] = []
        self.steps: list[int] = []
        self.lines: list[str] = []
        self._cancel_at = cancel_at

    @property
    def cancel_requested(self) -> bool:
        return self._cancel_at is not None and max(self.steps, default=0) >= self._cancel_at

    def progress(self, step: int, total: int, phase: str) -> None:
        self.steps.append(step)

    def metrics(self, step: int, values: Mapping[str, float], phase: str = "train") -> None:
        self.measured.append((step, phase, dict(values)))

    def log(self, text: str) -> None:
        self.lines.append(text)

    def flush(self) -> None:
        pass

    def losses(self) -> list[float]:
        return [values["loss"] for _, _, values in self.measured if "loss" in values]

    def evaluated(self) -> dict[int, float]:
        return {step: values["eval_loss"] for step, phase, values in self.measured if phase == "eval"}


def tiny_model(rank: int = 4) -> Any:
    """The same adapter on the same llama, every time."""
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
    return get_peft_model(
        LlamaForCausalLM(config),
        LoraConfig(task_type="CAUSAL_LM", r=rank, target_modules=["q_proj", "v_proj", "up_proj"]),
    )


def run(
    output: Path,
    context: RecordingContext,
    *,
    evaluate: bool = True,
    files: RunFiles | None = None,
    model: Any = None,
    rows: Sequence[Row] = ROWS,
    **given: Any,
) -> TrainingResult:
    values = {"batch_size": 4, "gradient_accumulation_steps": 1, "learning_rate": 1e-2, "logging_steps": 1, **given}
    spec = fill({"datasets": ("x",), "output_dir": "/out", **values}, Recipe())
    eval_rows = rows[16:] if evaluate else []
    return train(model or tiny_model(), spec, rows[:16], eval_rows, output, context, files=files)  # type: ignore[arg-type]
