"""How fast LoRA trains a model of Qwen1.5-7B's shape on one GPU, by the trainer's own path and by plain transformers.

    python3 tests/benchmarks/gpu_trainer.py [--only NAME ...]

Random weights and tokens. Prints a table: real tokens a second (padding and filling not counted), share of the H100's
bf16 peak at four operations a weight and token, peak memory, milliseconds an optimizer step, their seconds in all; and
apart from these what happens once: seconds of recording passes as graphs, and of the first step (kernels are compiled).
"""  # fmt: skip

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / part) for part in (".", "services/trainer", "shared", "protos/gen")]

import torch  # noqa: E402
from torch.utils.data import SequentialSampler  # noqa: E402
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments  # noqa: E402

from finery_trainer.recipes.attention import register  # noqa: E402
from finery_trainer.recipes.fused.fuse import fuse  # noqa: E402
from finery_trainer.recipes.packed_trainer import PackedTrainer  # noqa: E402
from tests.benchmarks.workloads import (  # noqa: E402
    H100_PEAK,
    BenchmarkRow,
    matmul_parameters,
    padded,
    qwen_7b,
    rows,
    tokens,
)

GUIDE_ROWS = 1500
"""Three data sets of 500 rows each, as in the guide."""


class Clock(TrainerCallback):
    """Times a run's first step, and all steps after the ``warm`` first ones; the device is waited for at both ends."""

    def __init__(self, warm: int) -> None:
        self._warm = warm
        self.first = self.start = self.end = self.recorded = 0.0
        self.trainer: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.first = self.start = _now()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 1:
            self.first = _now() - self.first
        if state.global_step == self._warm:
            self.start, self.recorded = _now(), self.recording()
        if state.global_step == state.max_steps:
            self.end = _now()

    def recording(self) -> float:
        """Seconds for which the trainer has recorded passes, so far."""
        return getattr(self.trainer, "recording_seconds", 0.0)


class InOrder:
    """Makes a trainer take the rows as they come, so that the tokens of its steps are known."""

    train_dataset: Any

    def _get_train_sampler(self, *args: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


class OrderedPackedTrainer(InOrder, PackedTrainer):
    pass


class OrderedTrainer(InOrder, Trainer):
    pass


def measure(
    make: Callable[[TrainingArguments, TrainerCallback, list[BenchmarkRow]], Any],
    data: list[BenchmarkRow],
    *,
    batch: int,
    accumulation: int = 1,
    warm: int,
    **extra: Any,
) -> str:
    """Train on all rows once, in order; the figures of the steps after ``warm``, as cells of the table."""
    torch.cuda.reset_peak_memory_stats()
    a_step = batch * accumulation
    steps = -(-len(data) // a_step)
    with tempfile.TemporaryDirectory() as directory:
        arguments = TrainingArguments(
            directory,
            max_steps=steps,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            learning_rate=1e-4,
            optim="adamw_torch_fused",
            logging_steps=5,
            logging_nan_inf_filter=False,
            save_strategy="no",
            report_to=[],
            remove_unused_columns=False,
            disable_tqdm=True,
            **extra,
        )
        clock = Clock(warm)
        trainer = clock.trainer = make(arguments, clock, data)
        trainer.remove_callback(PrinterCallback)
        loss = trainer.train().training_loss
    once = clock.recording() - clock.recorded + (clock.first if warm == 0 else 0.0)
    seconds, counted = clock.end - clock.start - once, tokens(data[warm * a_step :])
    if warm == 0:
        counted -= tokens(data[:a_step])
        steps -= 1
    rate = counted / seconds
    share = rate * 4 * matmul_parameters() / H100_PEAK
    peak = torch.cuda.max_memory_allocated() / 2**30
    return (
        f"{rate:8,.0f} | {share:6.1%} | {peak:5.1f} | {seconds / (steps - warm) * 1e3:7.1f} | {seconds:6.1f} | "
        f"{clock.recording():4.1f} | {clock.first:5.1f} | {loss:.3f}"
    )


def ours(*, batch: int, steps: int, warm: int, float8: bool, dropout: float, max_tokens: int | None = None) -> str:
    """The trainer's path: packed rows, fused layers."""
    model = qwen_7b(register(), dropout=dropout)
    fused = fuse(model, float8=float8)

    def make(arguments: TrainingArguments, clock: TrainerCallback, data: list[BenchmarkRow]) -> PackedTrainer:
        return OrderedPackedTrainer(
            model=model, args=arguments, train_dataset=data, fused=fused, max_tokens=max_tokens, callbacks=[clock]
        )

    return measure(make, rows(batch * steps), batch=batch, warm=warm)


def guide(*, float8: bool) -> str:
    """The guide's recipe through the trainer's path: all steps, from the very first."""
    model = qwen_7b(register(), dropout=0.05)
    fused = fuse(model, float8=float8)

    def make(arguments: TrainingArguments, clock: TrainerCallback, data: list[BenchmarkRow]) -> PackedTrainer:
        return OrderedPackedTrainer(model=model, args=arguments, train_dataset=data, fused=fused, callbacks=[clock])

    return measure(make, rows(GUIDE_ROWS), batch=1, accumulation=16, warm=0)


def plain(
    data: list[BenchmarkRow],
    *,
    batch: int,
    accumulation: int = 1,
    checkpointing: bool,
    dropout: float,
    warm: int,
    compiled: bool = False,
) -> str:
    """transformers' Trainer and PEFT, padded batches."""
    model = qwen_7b("sdpa", dropout=dropout)
    if compiled:
        for layer in model.get_base_model().model.layers:
            layer.compile(dynamic=False)

    def make(arguments: TrainingArguments, clock: TrainerCallback, given: list[BenchmarkRow]) -> Trainer:
        return OrderedTrainer(model=model, args=arguments, train_dataset=given, data_collator=padded, callbacks=[clock])

    options = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
    return measure(make, data, batch=batch, accumulation=accumulation, warm=warm, **(options if checkpointing else {}))


def long_rows(count: int) -> list[BenchmarkRow]:
    """Rows of 2,048 tokens, all learned."""
    return [BenchmarkRow(row, row) for row in (tuple(torch.randint(0, 151000, (2048,)).tolist()) for _ in range(count))]


BENCHMARKS: dict[str, tuple[str, Callable[[], str]]] = {
    "bf16": ("Finery, bf16", lambda: ours(batch=200, steps=14, warm=6, float8=False, dropout=0.0)),
    "bf16-dropout": (
        "Finery, bf16, lora_dropout 0.05",
        lambda: ours(batch=200, steps=13, warm=6, float8=False, dropout=0.05),
    ),
    "fp8": ("Finery, fp8 base", lambda: ours(batch=200, steps=16, warm=6, float8=True, dropout=0.0)),
    "fp8-dropout": (
        "Finery, fp8 base, lora_dropout 0.05",
        lambda: ours(batch=200, steps=14, warm=6, float8=True, dropout=0.05),
    ),
    "guide-bf16": ("Finery, the guide's recipe, all 94 steps, bf16", lambda: guide(float8=False)),
    "guide-fp8": ("Finery, the guide's recipe, all 94 steps, fp8 base", lambda: guide(float8=True)),
    "plain-guide": (
        "transformers + PEFT, the guide's defaults (batch 1, accumulation 16, checkpointing)",
        lambda: plain(rows(32), batch=1, accumulation=16, checkpointing=True, dropout=0.05, warm=1),
    ),
    "plain-16": (
        "transformers + PEFT, batch 8 padded",
        lambda: plain(rows(8 * 13), batch=8, checkpointing=False, dropout=0.05, warm=3),
    ),
    "plain-long": (
        "transformers + PEFT, 2 rows of 2,048 tokens",
        lambda: plain(long_rows(16), batch=2, checkpointing=False, dropout=0.0, warm=3),
    ),
    "plain-long-compiled": (
        "transformers + PEFT, 2 rows of 2,048 tokens, layers compiled",
        lambda: plain(long_rows(20), batch=2, checkpointing=False, dropout=0.0, warm=4, compiled=True),
    ),
}


def _now() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


def main(wanted: Sequence[str]) -> None:
    """Run and print the table, a line as soon as it is known."""
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}", flush=True)  # noqa: T201
    print("| what | tok/s | of peak | GiB | ms/step | s | recording s | first step s | loss |", flush=True)  # noqa: T201
    print("|---|---|---|---|---|---|---|---|---|", flush=True)  # noqa: T201
    for name in wanted:
        title, run = BENCHMARKS[name]
        print(f"| {title} | {run()} |", flush=True)  # noqa: T201
        gc.collect()
        torch.cuda.empty_cache()
        torch._dynamo.reset()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(BENCHMARKS), default=list(BENCHMARKS))
    main(parser.parse_args().only)
