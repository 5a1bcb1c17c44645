"""The real worker, with one fault on the way: FINERY_TEST_FAULT is "zero", "tokenizer" or "kill"."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from finery_shared.jobs.worker import Outcome, WorkerContext, run_worker
from finery_trainer.worker import train


class DyingContext:
    """A context in whose first attempt the process is killed after the second step."""

    def __init__(self, context: WorkerContext) -> None:
        self._context = context

    def progress(self, step: int, total: int, phase: str) -> None:
        self._context.progress(step, total, phase)
        if phase == "training" and step == 2 and self._context.attempt == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


def zero_the_adapter(directory: Path) -> None:
    file = directory / "adapter_model.safetensors"
    tensors = {name: t * 0 if ".lora_B." in name else t for name, t in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})


def swap_the_tokenizer(directory: Path) -> None:
    file = directory / "tokenizer_config.json"
    file.write_text(file.read_text().replace("<|im_end|>", "<|im_start|>"))


def work(context: WorkerContext) -> Outcome:
    match os.environ["FINERY_TEST_FAULT"]:
        case "zero":
            return train(context, zero_the_adapter)
        case "tokenizer":
            return train(context, swap_the_tokenizer)
        case "kill":
            return train(DyingContext(context))  # type: ignore[arg-type]
        case fault:
            raise ValueError(fault)


if __name__ == "__main__":
    sys.exit(run_worker(work))
