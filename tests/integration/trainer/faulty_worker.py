"""The real worker, with one fault on the way: FINERY_TEST_FAULT is "zero", "tokenizer" or "second-rank"."""

import os
import sys
import threading
from pathlib import Path

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


def work(context: WorkerContext) -> Outcome:
    match os.environ["FINERY_TEST_FAULT"]:
        case "zero":
            return train(context, zero_the_adapter)
        case "tokenizer":
            return train(context, swap_the_tokenizer)
        case "second-rank":
            if context.place is not None and context.place.rank == 1:
                raise FineryError(Reason.DISK_FULL, "No room for the second rank.")
            threading.Event().wait()  # as a rank does that waits for another
        case fault:
            raise ValueError(fault)


if __name__ == "__main__":
    sys.exit(run_worker(work))
