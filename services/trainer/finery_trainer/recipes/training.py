"""The run itself: transformers' Trainer over packed rows, which goes on from where an earlier attempt was cut short."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, TrainerState

from finery_shared.errors import FineryError, Reason, invalid
from finery_shared.jobs.worker import WorkerContext
from finery_trainer.recipes.arguments import CHECKPOINTED_FROM, total_steps, training_arguments
from finery_trainer.recipes.fused.fuse import FusedModel, fuse, unfusable
from finery_trainer.recipes.hardware import device
from finery_trainer.recipes.neftune import noisy_embeddings
from finery_trainer.recipes.pace import Pace
from finery_trainer.recipes.packed_trainer import PackedTrainer
from finery_trainer.recipes.parallel import parameter_count, rank_arguments, sum_over_ranks
from finery_trainer.recipes.placement import is_spread
from finery_trainer.recipes.reporting import JobCallback
from finery_trainer.recipes.rows import Row
from finery_trainer.recipes.safety import DiskGuard, DryRun, checkpoint_bytes, longest_rows, memory_errors
from finery_trainer.recipes.saved import (
    Checkpoint,
    CheckpointKeeper,
    best,
    discard_broken,
    read_state,
    seconds_of,
    whole_checkpoints,
)
from finery_trainer.recipes.stopping import loss_stopped_falling
from finery_trainer.recipes.watching import RunFiles
from finery_trainer.spec import TrainingSpec


@dataclass(frozen=True)
class TrainingResult:
    """What a run left, also one that was cut short. ``seconds`` is the time of training with its evaluations."""

    checkpoints: tuple[Checkpoint, ...]
    train_loss: float
    seconds: float

    @property
    def last(self) -> Checkpoint:
        """The checkpoint of the latest step."""
        return best(self.checkpoints, by_loss=False)

    def best(self, *, by_loss: bool) -> Checkpoint:
        """The checkpoint with the lowest evaluation loss; the last one if the loss shall not decide."""
        return best(self.checkpoints, by_loss=by_loss)


def train(
    model: Any,
    spec: TrainingSpec,
    rows: Sequence[Row],
    eval_rows: Sequence[Row],
    output: Path,
    context: WorkerContext,
    *,
    best_by_loss: bool = True,
    autocast: torch.dtype | None = None,
    shards: Mapping[str, Any] | None = None,
    files: RunFiles | None = None,
) -> TrainingResult:
    """Train what is trainable in ``model``, saving checkpoints below ``output``; returns early when cancelled.

    Goes on from the latest whole checkpoint that ``output`` holds, with its optimizer, schedule, data order and random
    numbers: what follows is what would have followed without the break. ``shards`` is DeepSpeed's configuration,
    ``files`` is what the first rank writes for people.
    """
    first = context.place is None or context.place.rank == 0
    if first:
        discard_broken(output)
    earlier = whole_checkpoints(output)
    if earlier and _is_over(read_state(earlier[-1].path), spec, len(rows)):
        return _result(output, read_state(earlier[-1].path), seconds_of(earlier[-1].path))
    before = seconds_of(earlier[-1].path) if earlier else 0.0
    began = time.monotonic()
    fused = _fused(model, spec, context, sharded=shards is not None)
    arguments = training_arguments(
        spec,
        output,
        len(rows),
        evaluate=bool(eval_rows),
        checkpointing=fused is None and parameter_count(model) >= CHECKPOINTED_FROM,
        autocast=autocast,
        ranks=rank_arguments(context.place, shards),
    )
    trainer = PackedTrainer(
        model=model,
        args=arguments,
        fused=fused,
        train_dataset=rows,
        eval_dataset=eval_rows or None,
    )
    trainer.remove_callback(PrinterCallback)
    reports = JobCallback(
        context,
        evaluates=bool(eval_rows),
        patience=spec.early_stopping_patience,
        pace=Pace(lambda: sum_over_ranks(trainer.tokens_seen)),
        files=files if first else None,
    )
    by_loss = best_by_loss and bool(eval_rows)

    def clock() -> float:
        return before + time.monotonic() - began

    longest = longest_rows(rows, spec.batch_size * spec.gradient_accumulation_steps)
    trainer.add_callback(DiskGuard(output, checkpoint_bytes(model)))
    trainer.add_callback(DryRun(trainer, longest, sharded=shards is not None))
    trainer.add_callback(reports)
    trainer.add_callback(CheckpointKeeper(output, spec.save_total_limit, by_loss=by_loss, clock=clock))
    if spec.early_stopping_patience is not None and not eval_rows:
        context.log("WARNING: --early_stopping_patience is without effect: there are no rows to evaluate on")
    if earlier:
        context.log(f"going on from step {earlier[-1].step}")
    with noisy_embeddings(model, spec.neftune_noise_alpha), memory_errors(spec, len(longest[0].input_ids)):
        trainer.train(resume_from_checkpoint=str(earlier[-1].path) if earlier else None)
    return _result(output, trainer.state, clock())


def _fused(model: Any, spec: TrainingSpec, context: WorkerContext, *, sharded: bool) -> FusedModel | None:
    """On a GPU, the model with layers of our own, where they can compute it; says why where they can't."""
    if device().type != "cuda" or spec.sft_type == "full":
        return None
    if sharded:
        reason = "DeepSpeed holds its parameters"
    elif is_spread(model):
        reason = "it lies on several GPUs"
    else:
        reason = unfusable(model)
    float8 = spec.base_precision == "fp8"
    if not reason:
        if float8:
            context.log("WARNING: --base_precision fp8 rounds what the frozen model computes; small models notice most")
        return fuse(model, float8=float8)
    if float8:
        raise FineryError(Reason.UNSUPPORTED, f"--base_precision fp8 can't be had for this model: {reason}.")
    context.log(f"the model is computed by its own layers: {reason}")
    return None


def check_unfinished(state: TrainerState, spec: TrainingSpec, rows: int) -> None:
    """Raise INVALID_ARGUMENT when a job over that many rows would have nothing left to train after a checkpoint."""
    step, total = state.global_step, total_steps(spec, rows)
    if step >= total:
        raise invalid(
            "resume_from_checkpoint",
            f"the checkpoint is at step {step}, and this run has {total} in all: raise --num_train_epochs or "
            "--max_steps.",
        )
    if _is_over(state, spec, rows):
        raise invalid(
            "resume_from_checkpoint",
            f"the run ended at step {step} because its loss no longer fell: leave --early_stopping_patience out, or "
            "raise it.",
        )


def _is_over(state: TrainerState, spec: TrainingSpec, rows: int) -> bool:
    """Whether nothing is left to train: a crash can fall between the last save and the end of the checks."""
    if state.global_step >= total_steps(spec, rows):
        return True
    return loss_stopped_falling(state.log_history, spec.early_stopping_patience)


def _result(output: Path, state: TrainerState, seconds: float) -> TrainingResult:
    return TrainingResult(tuple(whole_checkpoints(output)), mean_loss(state.log_history), seconds)


def mean_loss(log_history: Sequence[Mapping[str, Any]]) -> float:
    """Training loss in nats a token, the mean over all steps; each logged loss is the mean since the one before."""
    total, last = 0.0, 0
    for entry in log_history:
        if "loss" in entry:
            total += float(entry["loss"]) * (int(entry["step"]) - last)
            last = int(entry["step"])
    return total / last if last else math.nan
