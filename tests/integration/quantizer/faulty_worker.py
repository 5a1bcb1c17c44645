"""The real worker, with one fault on the way: FINERY_TEST_FAULT is "scale", "tokenizer" or "kill"."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from finery_quantizer.worker import export
from finery_shared.jobs.worker import Outcome, WorkerContext, run_worker


class DyingContext:
    """A context in whose first attempt the process is killed after the first layer."""

    def __init__(self, context: WorkerContext) -> None:
        self._context = context

    def progress(self, step: int, total: int, phase: str) -> None:
        self._context.progress(step, total, phase)
        if phase == "quantizing" and step == 1 and self._context.attempt == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


def corrupt_a_scale(directory: Path) -> None:
    file = directory / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.1.mlp.down_proj.scales"][0, 0] *= 1.5
    save_file(tensors, file, metadata={"format": "pt"})


def swap_the_tokenizer(directory: Path) -> None:
    file = directory / "tokenizer_config.json"
    file.write_text(file.read_text().replace("<|im_end|>", "<|im_start|>"))


def work(context: WorkerContext) -> Outcome:
    match os.environ["FINERY_TEST_FAULT"]:
        case "scale":
            return export(context, corrupt_a_scale)
        case "tokenizer":
            return export(context, swap_the_tokenizer)
        case "kill":
            return export(DyingContext(context))  # type: ignore[arg-type]
        case fault:
            raise ValueError(fault)


if __name__ == "__main__":
    sys.exit(run_worker(work))
