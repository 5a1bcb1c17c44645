"""From transformers' Trainer to the job: progress, metrics, cancellation."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from finery_shared.jobs.worker import WorkerContext
from finery_trainer.recipes.pace import Pace
from finery_trainer.recipes.parallel import sum_over_ranks
from finery_trainer.recipes.safety import check_loss
from finery_trainer.recipes.stopping import loss_stopped_falling
from finery_trainer.recipes.watching import RunFiles

PHASE = "training"
_SKIPPED = {"epoch", "total_flos", "train_runtime", "eval_runtime", "train_loss"}


class JobCallback(TrainerCallback):  # type: ignore[misc]  # transformers is not checked
    """Reports every step, evaluates whatever is saved, and stops when the job is cancelled or no longer learns."""

    def __init__(
        self,
        context: WorkerContext,
        *,
        evaluates: bool,
        patience: int | None = None,
        pace: Pace | None = None,
        files: RunFiles | None = None,
    ) -> None:
        self._context = context
        self._evaluates = evaluates
        self._patience = patience
        self._pace = pace or Pace(lambda: 0)
        self._files = files

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Say how many steps there are."""
        self._context.progress(state.global_step, state.max_steps, PHASE)
        if self._files is not None:
            self._files.begin(state.global_step)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Time the step."""
        self._pace.step_begins()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Report the step. A checkpoint without an evaluation could never be the best one.

        What is saved is logged first: a run that goes on from there logs the same losses as one that never stopped.
        """
        self._pace.step_ends()
        self._context.progress(state.global_step, state.max_steps, PHASE)
        control.should_evaluate |= control.should_save and self._evaluates
        if _on_any_rank(self._context.cancel_requested):
            control.should_training_stop = control.should_save = True
            control.should_evaluate = False
        control.should_log |= control.should_save or control.should_evaluate

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stop early, with a checkpoint of this step."""
        if loss_stopped_falling(state.log_history, self._patience):
            self._context.log(f"stopped at step {state.global_step}: the evaluation loss no longer falls")
            control.should_training_stop = control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Have all that was measured until here stored, before the checkpoint counts as whole."""
        self._context.flush()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Hand the figures in; raise GATE_FAILED when the loss is no number, or nothing is learned."""
        figures = {name: float(value) for name, value in (logs or {}).items() if _is_figure(name, value)}
        phase = "eval" if "eval_loss" in figures else "train"
        before = [entry["loss"] for entry in state.log_history if "loss" in entry]
        check_loss(figures, before, f"at step {state.global_step}")
        if not figures:
            return
        if phase == "train":
            figures |= self._pace.figures()
        self._context.metrics(state.global_step, figures, phase)
        if self._files is not None:
            self._files.record(state.global_step, phase, figures, epoch=state.epoch, max_steps=state.max_steps)


def _is_figure(name: str, value: object) -> bool:
    return name not in _SKIPPED and not name.endswith("_per_second") and isinstance(value, (int, float))


def _on_any_rank(flag: bool) -> bool:
    """Whether any rank says so: all must stop at the same step, and the first one alone is told to."""
    return sum_over_ranks(int(flag)) > 0
