"""The real worker, with one fault on the way, named by FINERY_TEST_FAULT; a killed one works when tried again."""

import itertools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from safetensors.torch import load_file, save_file

import finery_quantizer.backends.export as export_module
from finery_quantizer.backends.awq import finished, quantizer, search, writer
from finery_quantizer.backends.lora import fold
from finery_quantizer.worker import export
from finery_shared.jobs.worker import Outcome, WorkerContext, run_worker


def die(*_arguments: object) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def die_in(module: Any, name: str, *, after: int = 0, first: Callable[..., object] = lambda *_: None) -> None:
    """Have the `after`-th later call of a function do what `first` does, and then kill the process."""
    original, calls = getattr(module, name), itertools.count()

    def call(*arguments: Any, **keywords: Any) -> Any:
        if next(calls) < after:
            return original(*arguments, **keywords)
        first(*arguments)
        die()

    setattr(module, name, call)


def say_what_is_done(context: WorkerContext) -> None:
    """Have the worker log whether it merges, and after how many finished layers it goes on."""
    merge, layers = export_module.fold, quantizer.AwqQuantizer.layers

    def merging(*arguments: Any) -> Any:
        context.log("merges")
        return merge(*arguments)

    def going_on(self: Any, model: Any, blocks: Any, done: int = 0) -> Any:
        context.log(f"goes on after {done} layers")
        return layers(self, model, blocks, done)

    export_module.fold, quantizer.AwqQuantizer.layers = merging, going_on  # type: ignore[method-assign]


def half_a_shard(file: Path, *_: object) -> None:
    file.write_bytes(b"\0" * 1000)


def half_a_layer(_tensors: object, file: Path) -> None:
    file.write_bytes(b"\0" * 1000)


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
        case "merging" if context.attempt == 1:
            die_in(fold, "stream_shard", first=half_a_shard)
        case "layer" if context.attempt == 1:
            die_in(search.LayerSearch, "decide", after=1)
        case "saving" if context.attempt == 1:
            die_in(finished, "save_file", after=1, first=half_a_layer)
        case "writing" if context.attempt == 1:
            die_in(writer, "copy_verbatim")
        case "merging" | "layer" | "saving" | "writing":
            say_what_is_done(context)
        case fault:
            raise ValueError(fault)
    return export(context)


if __name__ == "__main__":
    sys.exit(run_worker(work))
