"""The run itself: transformers' Trainer over packed rows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PrinterCallback, Trainer

from finery_shared.jobs.worker import WorkerContext
from finery_trainer.recipes.arguments import training_arguments
from finery_trainer.recipes.collator import pack
from finery_trainer.recipes.reporting import JobCallback
from finery_trainer.recipes.rows import Row
from finery_trainer.spec import TrainingSpec


@dataclass(frozen=True)
class Checkpoint:
    """A directory that the Trainer saved, its step, and its evaluation loss in nats a token, if it was evaluated."""

    path: Path
    step: int
    eval_loss: float | None


@dataclass(frozen=True)
class TrainingResult:
    """What a run left, also one that was cut short. ``seconds`` is the time of training with its evaluations."""

    checkpoints: tuple[Checkpoint, ...]
    train_loss: float
    seconds: float

    @property
    def last(self) -> Checkpoint:
        """The checkpoint of the latest step."""
        return max(self.checkpoints, key=lambda checkpoint: checkpoint.step)

    def best(self, *, by_loss: bool) -> Checkpoint:
        """The checkpoint with the lowest evaluation loss; the last one if the loss shall not decide."""
        if not by_loss:
            return self.last
        return min(
            self.checkpoints,
            key=lambda c: (float("inf") if c.eval_loss is None else c.eval_loss, -c.step),
        )


def train(
    model: PeftModel,
    spec: TrainingSpec,
    rows: Sequence[Row],
    eval_rows: Sequence[Row],
    output: Path,
    context: WorkerContext,
) -> TrainingResult:
    """Train the adapter of ``model``, saving checkpoints below ``output``; returns early when the job is cancelled."""
    trainer = Trainer(
        model=model,
        args=training_arguments(
            spec, output, len(rows), evaluate=bool(eval_rows), parameters=sum(p.numel() for p in model.parameters())
        ),
        data_collator=pack,
        train_dataset=list(rows),
        eval_dataset=list(eval_rows) or None,
        callbacks=[JobCallback(context, evaluates=bool(eval_rows))],
    )
    trainer.remove_callback(PrinterCallback)
    began = time.monotonic()
    outcome = trainer.train()
    losses = {entry["step"]: entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry}
    return TrainingResult(_checkpoints(output, losses), float(outcome.training_loss), time.monotonic() - began)


def _checkpoints(output: Path, losses: dict[Any, float]) -> tuple[Checkpoint, ...]:
    found = [(int(path.name.rpartition("-")[2]), path) for path in output.glob("checkpoint-*")]
    return tuple(Checkpoint(path, step, losses.get(step)) for step, path in sorted(found))
