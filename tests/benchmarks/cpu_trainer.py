"""How fast LoRA trains a small model on this CPU: the trainer's path beside plain transformers and PEFT, same rows.

    python tests/benchmarks/cpu_trainer.py MODEL_DIRECTORY

Real weights, random tokens, the guide's LoRA (r 8, all linear layers, dropout 0.05), batches of 8 rows. Prints a table.
"""  # fmt: skip

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT)]

from finery_trainer.recipes.attention import register  # noqa: E402
from finery_trainer.recipes.dropout import quicken_dropout  # noqa: E402
from finery_trainer.recipes.packed_trainer import PackedTrainer  # noqa: E402
from tests.benchmarks.workloads import BenchmarkRow, padded, rows, tokens  # noqa: E402

BATCH, STEPS, WARM = 8, 4, 1


class Clock(TrainerCallback):
    """Times the steps after the first ones."""

    def __init__(self) -> None:
        self.start = self.end = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == WARM:
            self.start = time.perf_counter()
        self.end = time.perf_counter()


def load(directory: Path, dtype: torch.dtype, attention: str) -> Any:
    """The model with a fresh adapter."""
    base = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, attn_implementation=attention)
    base.config.use_cache = False
    lora = LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=32, lora_dropout=0.05, target_modules="all-linear")
    return get_peft_model(base, lora)


def measure(make: Callable[[TrainingArguments, Clock, list[BenchmarkRow]], Any]) -> float:
    """Real tokens a second."""
    data, clock = rows(BATCH * STEPS, vocabulary=49000), Clock()
    with tempfile.TemporaryDirectory() as directory:
        arguments = TrainingArguments(
            directory,
            max_steps=STEPS,
            per_device_train_batch_size=BATCH,
            learning_rate=1e-4,
            use_cpu=True,
            save_strategy="no",
            report_to=[],
            remove_unused_columns=False,
            disable_tqdm=True,
            train_sampling_strategy="sequential",
        )
        trainer = make(arguments, clock, data)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return tokens(data[WARM * BATCH :]) / (clock.end - clock.start)


def main(directory: Path) -> None:
    """Print the table."""

    def plain(dtype: torch.dtype) -> float:
        model = load(directory, dtype, "sdpa")
        return measure(lambda a, c, d: Trainer(model, a, train_dataset=d, data_collator=padded, callbacks=[c]))

    def ours(dtype: torch.dtype) -> float:
        model = load(directory, dtype, register())
        quicken_dropout(model)
        return measure(lambda a, c, d: PackedTrainer(model, a, train_dataset=d, callbacks=[c]))

    print("| base model in | transformers + PEFT, padded, tok/s | Finery, packed, tok/s | ratio |", flush=True)  # noqa: T201
    print("|---|---|---|---|", flush=True)  # noqa: T201
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        theirs, own = plain(dtype), ours(dtype)
        print(f"| {name} | {theirs:,.0f} | {own:,.0f} | {own / theirs:.2f} |", flush=True)  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]))
