"""Checkpoints of a run under way: sealed when whole, found again after a crash, dropped when there are too many."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

SEAL = "whole.json"


@dataclass(frozen=True)
class Checkpoint:
    """A directory that the Trainer saved, its step, and its evaluation loss in nats a token, if it was evaluated."""

    path: Path
    step: int
    eval_loss: float | None


def seal(directory: Path, seconds: float) -> None:
    """Mark a directory as whole: no file is missing or short. ``seconds`` is how long the run took so far."""
    sizes = {path.relative_to(directory).as_posix(): path.stat().st_size for path in _files(directory)}
    temporary = directory / f"{SEAL}.tmp"
    temporary.write_text(json.dumps({"seconds": seconds, "sizes": sizes}), encoding="utf-8")
    os.replace(temporary, directory / SEAL)


def is_whole(directory: Path) -> bool:
    """Whether a directory was sealed and still has every file: a crash can fall into saving and into removing."""
    try:
        sizes = json.loads((directory / SEAL).read_text(encoding="utf-8"))["sizes"]
        return all((directory / name).stat().st_size == size for name, size in sizes.items())
    except FileNotFoundError:
        return False


def seconds_of(directory: Path) -> float:
    """How long the run had taken when the checkpoint was saved."""
    return float(json.loads((directory / SEAL).read_text(encoding="utf-8"))["seconds"])


def whole_checkpoints(output: Path) -> list[Checkpoint]:
    """All whole checkpoints below a directory, the earliest first, with the losses that the latest one knows."""
    found = sorted((int(path.name.rpartition("-")[2]), path) for path in output.glob("checkpoint-*") if is_whole(path))
    losses = eval_losses(read_state(found[-1][1]).log_history) if found else {}
    return [Checkpoint(path, step, losses.get(step)) for step, path in found]


def discard_broken(output: Path) -> None:
    """Remove what a crash left of checkpoints that were being saved or removed."""
    for path in output.glob("checkpoint-*"):
        if not is_whole(path):
            shutil.rmtree(path)


def read_state(checkpoint: Path) -> TrainerState:
    """The Trainer's state at a checkpoint: its step, and all that was logged until then."""
    return TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))


def eval_losses(log_history: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """Evaluation loss by step."""
    return {int(entry["step"]): float(entry["eval_loss"]) for entry in log_history if "eval_loss" in entry}


def best(checkpoints: Sequence[Checkpoint], *, by_loss: bool) -> Checkpoint:
    """The checkpoint with the lowest evaluation loss, the latest of equals; the last one if loss shall not decide."""
    if not by_loss:
        return max(checkpoints, key=lambda c: c.step)
    return min(checkpoints, key=lambda c: (float("inf") if c.eval_loss is None else c.eval_loss, -c.step))


class CheckpointKeeper(TrainerCallback):  # type: ignore[misc]  # transformers is not checked
    """Seals what the Trainer saves, and keeps the best checkpoint and the latest ones, ``limit`` in all.

    A limit of 1 keeps the latest, which a later attempt goes on from. The Trainer itself must remove nothing: it would
    do so before the new checkpoint is sealed, and a crash in between would lose both. ``clock`` gives the seconds that
    the run took.
    """

    def __init__(self, output: Path, limit: int, *, by_loss: bool, clock: Callable[[], float]) -> None:
        self._output = output
        self._limit = limit
        self._by_loss = by_loss
        self._clock = clock

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """All ranks have written their part once every one is here."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.barrier()
        if not state.is_world_process_zero:
            return
        seal(self._output / f"checkpoint-{state.global_step}", self._clock())
        checkpoints = whole_checkpoints(self._output)
        latest = checkpoints[-self._limit :]
        chosen = best(checkpoints, by_loss=self._by_loss)
        if chosen not in latest and self._limit > 1:
            latest = [chosen, *latest[1:]]
        for checkpoint in checkpoints:
            if checkpoint not in latest:
                shutil.rmtree(checkpoint.path)


def _files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file() and not path.name.startswith(SEAL)]
