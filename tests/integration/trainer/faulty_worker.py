"""The real worker, with one fault on the way, or with none: FINERY_TEST_FAULT says which, see `work`.

Those that kill it do so in the first attempt alone.
"""

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from finery_shared.errors import FineryError, Reason
from finery_shared.jobs.worker import Outcome, WorkerContext, run_worker
from finery_trainer.worker import train


def zero_the_adapter(directory: Path) -> None:
    file = directory / "adapter_model.safetensors"
    tensors = {name: t * 0 if ".lora_B." in name else t for name, t in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})


def swap_the_tokenizer(directory: Path) -> None:
    file = directory / "tokenizer_config.json"
    file.write_text(file.read_text().replace("<|im_end|>", "<|im_start|>"))


class DyingContext:
    """A context whose process is killed once a step is done and told; of several ranks, the last one."""

    def __init__(self, context: WorkerContext, step: int) -> None:
        self._context = context
        self._step = step

    def progress(self, step: int, total: int, phase: str) -> None:
        self._context.progress(step, total, phase)
        place = self._context.place
        if phase == "training" and step == self._step and (place is None or place.rank == place.size - 1):
            self._context.flush()
            os.kill(os.getpid(), signal.SIGKILL)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


def die_saving(step: int) -> None:
    """Have this process killed when the checkpoint of a step has its weights and half of the optimizer's state."""
    save = torch.save

    def torn(value: Any, file: Any, *more: Any, **options: Any) -> None:
        save(value, file, *more, **options)
        if f"checkpoint-{step}/optimizer" in str(file):
            os.truncate(file, os.path.getsize(file) // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    torch.save = torn


def work(context: WorkerContext) -> Outcome:
    fault, _, step = os.environ["FINERY_TEST_FAULT"].partition(" ")
    match fault:
        case "die-after" if context.attempt == 1:
            return train(DyingContext(context, int(step)))  # type: ignore[arg-type]
        case "die-saving" if context.attempt == 1:
            die_saving(int(step))
            return train(context)
        case "none" | "die-after" | "die-saving":
            return train(context)
        case "zero":
            return train(context, zero_the_adapter)
        case "tokenizer":
            return train(context, swap_the_tokenizer)
        case "second-rank":
            if context.place is not None and context.place.rank == 1:
                raise FineryError(Reason.DISK_FULL, "No room for the second rank.")
            threading.Event().wait()  # as a rank does that waits for another
        case _:
            raise ValueError(fault)


if __name__ == "__main__":
    sys.exit(run_worker(work))
