"""What ends a run that can't come to good, before it has cost hours: memory, numbers, disk."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from finery_shared.errors import FineryError, Reason
from finery_trainer.recipes.rows import Row
from finery_trainer.spec import TrainingSpec

_MARGIN = 64 * 2**20
"""Bytes that a save leaves free: the job database and the logs need room too."""


class StepMaker(Protocol):
    """The part of a Trainer that a dry run needs."""

    tokens_seen: int

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """The micro-batches of a step, and its number of learned tokens."""

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward; the loss."""

    def compute_loss(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward; the loss."""


class DryRun(TrainerCallback):  # type: ignore[misc]  # transformers is not checked
    """Before the first step, one pass over the longest rows: what is too large fails now, not in the last hour."""

    def __init__(self, trainer: StepMaker, rows: Sequence[Row], *, sharded: bool) -> None:
        self._trainer = trainer
        self._rows = rows
        self._sharded = sharded

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Raise GATE_FAILED when the loss of the longest rows is no number, or zero."""
        loss = dry_run(self._trainer, kwargs["model"], self._rows, args.device, sharded=self._sharded)
        check_loss({"loss": loss}, [], "before the first step")


def longest_rows(rows: Sequence[Row], count: int) -> list[Row]:
    """The rows of the largest step that can be drawn, the longest first."""
    known = getattr(rows, "lengths", None)
    lengths: Sequence[int] = [len(row.input_ids) for row in rows] if known is None else known
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    return [rows[i] for i in order[:count]]


def dry_run(trainer: StepMaker, model: Any, rows: Sequence[Row], device: torch.device, *, sharded: bool) -> float:
    """The loss of one pass over rows, after which everything is as before: gradients, random numbers, counts.

    ``sharded`` models go forward alone: DeepSpeed would keep the gradients.
    """
    seen = trainer.tokens_seen
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        batches, count = trainer.get_batch_samples(iter([{"rows": tuple(rows)}]), 1, device)
        largest = max(batches[-1]["passes"], key=lambda one: int(one["input_ids"].numel()))
        if sharded:
            with torch.no_grad():
                loss = trainer.compute_loss(model, largest, num_items_in_batch=count)
        else:
            loss = trainer.training_step(model, {"passes": (largest,)}, count)
        model.zero_grad()
    trainer.tokens_seen = seen
    return float(loss)


def check_loss(figures: Mapping[str, float], before: Sequence[float], when: str) -> None:
    """Raise GATE_FAILED when losses or gradients are no numbers, or when the training loss was zero from the start.

    ``before`` are the training losses logged so far, ``when`` says where the run is, for the message.
    """
    for name, what in (("loss", "training loss"), ("eval_loss", "evaluation loss"), ("grad_norm", "gradient")):
        if not math.isfinite(figures.get(name, 0.0)):
            raise _bad_loss(
                f"The {what} is not a number {when}. Lower --learning_rate or --max_grad_norm, or train with "
                "--dtype bf16 or fp32."
            )
    if figures.get("loss") == 0.0 and not any(before):
        raise _bad_loss(
            f"The training loss is zero {when}: nothing is learned. Check that the rows have answers, and train with "
            "--dtype bf16 or fp32."
        )


class DiskGuard(TrainerCallback):  # type: ignore[misc]  # transformers is not checked
    """Looks for room before a checkpoint is written; ``size`` is its bytes, ``free`` tells those of a file system."""

    def __init__(self, output: Path, size: int, free: Callable[[Path], int] | None = None) -> None:
        self._output = output
        self._size = size
        self._free = free or free_bytes

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Fail before the work, if it couldn't be kept."""
        self._check(state)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Fail before half a checkpoint is written."""
        if control.should_save:
            self._check(state)

    def _check(self, state: TrainerState) -> None:
        if not state.is_world_process_zero:
            return
        free = self._free(self._output)
        if free < self._size + _MARGIN:
            raise FineryError(
                Reason.DISK_FULL,
                f"A checkpoint needs about {_amount(self._size + _MARGIN)}, and at step {state.global_step} there is "
                f"{_amount(free)} of space left on the file system of {self._output}. Free some, lower "
                "--save_total_limit, or choose another --output_dir.",
                path=str(self._output),
            )


def free_bytes(path: Path) -> int:
    """Bytes free on the file system of a path, which need not exist yet."""
    return shutil.disk_usage(next(place for place in (path, *path.parents) if place.exists())).free


def checkpoint_bytes(model: Any) -> int:
    """About what a checkpoint takes: the trained parameters and Adam's two means of each, and a copy to publish."""
    trained: int = sum(
        getattr(parameter, "ds_numel", parameter.numel()) * parameter.element_size()
        for parameter in model.parameters()
        if parameter.requires_grad
    )
    return 4 * trained


@contextmanager
def memory_errors(spec: TrainingSpec, longest: int) -> Iterator[None]:
    """Tell a device without room as OUT_OF_MEMORY, with what to change; ``longest`` is a row's length in tokens."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if type(error) is RuntimeError and "can't allocate memory" not in str(error):
            raise
        advice = [f"lower --max_length (the longest row has {longest} tokens)"]
        if spec.sft_type == "full":
            advice.append("train an adapter: --sft_type lora")
        if spec.deepspeed != "default-zero3":
            advice.append("shard the model over several GPUs: --nproc_per_node N --deepspeed default-zero3")
        text = f"The device has no memory for a training step. Either {'; or '.join(advice)}."
        raise FineryError(Reason.OUT_OF_MEMORY, text, detail=str(error)) from error


def _amount(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def _bad_loss(message: str) -> FineryError:
    return FineryError(Reason.GATE_FAILED, message, gate="loss")
