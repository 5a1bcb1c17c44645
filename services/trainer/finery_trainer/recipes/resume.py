"""The state by which another job goes on from a published checkpoint, as safetensors and JSON.

The Trainer keeps optimizer, schedule and random numbers in torch files. Nothing that is published is a pickle, so they
are taken apart when a checkpoint is published, and put together when a job goes on from it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import TrainerState
from transformers.trainer_pt_utils import safe_globals

from finery_shared.artifacts import disk_errors, verify
from finery_trainer.recipes.checkpoints import ADAPTER_FILES
from finery_trainer.recipes.saved import read_state, seal, seconds_of
from finery_trainer.recipes.weights import SINGLE, save_readable, weight_files
from finery_trainer.resuming import RESUME

_TENSORS, _REST, _LOG = "state.safetensors", "state.json", "trainer_state.json"
_REQUIRED = ("optimizer.pt", "scheduler.pt")


def pack_state(saved: Path, target: Path, *, weights: bool) -> None:
    """Write the state of a checkpoint that the Trainer saved below a directory that is to be published.

    ``weights``: the weights too, because those that are published were rounded. A checkpoint of DeepSpeed's, whose
    state is spread over its ranks, gets none.
    """
    if not all((saved / name).is_file() for name in _REQUIRED):
        return
    files = [*_REQUIRED, *sorted(path.name for path in saved.glob("rng_state*.pth"))]
    files += [name for name in ("scaler.pt",) if (saved / name).is_file()]
    tensors: dict[str, Tensor] = {}
    parts = {name: take_apart(_load(saved / name), name, tensors) for name in files}
    directory = target / RESUME
    with disk_errors(target):
        directory.mkdir()
        save_readable(tensors, directory / _TENSORS)
        (directory / _REST).write_text(json.dumps({"seconds": seconds_of(saved), "files": parts}), encoding="utf-8")
        shutil.copyfile(saved / _LOG, directory / _LOG)
        for file in weight_files(saved) if weights else ():
            os.link(file, directory / file.name)  # saved once, published once, never changed
            shutil.copymode(directory / _REST, directory / file.name)


def unpack_state(published: Path, output: Path, check: Callable[[TrainerState], None]) -> None:
    """Make a checkpoint below ``output`` that the Trainer can go on from, out of a published one.

    ``check`` is called with the Trainer's state at it. Raises DATA_LOSS when the published one isn't what it was.
    """
    verify(published)
    source = published / RESUME
    state = read_state(source)
    check(state)
    target = output / f"checkpoint-{state.global_step}"
    with disk_errors(output):
        target.mkdir(parents=True, exist_ok=True)
        rest = json.loads((source / _REST).read_text(encoding="utf-8"))
        tensors = load_file(source / _TENSORS)
        for name, part in rest["files"].items():
            torch.save(put_together(part, tensors), target / name)
        shutil.copyfile(source / _LOG, target / _LOG)
        for path in _weights(published):
            shutil.copyfile(path, target / path.name)
    seal(target, rest["seconds"])


def take_apart(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """JSON that stands for a value of dicts, sequences, numbers and tensors; the tensors go to ``tensors``."""
    match value:
        case Tensor():
            tensors[name] = value.detach().cpu().contiguous()
            return {"tensor": name}
        case np.ndarray():
            tensors[name] = torch.from_numpy(value.astype(np.int64))
            return {"array": name, "dtype": str(value.dtype)}
        case dict():
            pairs = [[key, take_apart(part, f"{name}.{key}", tensors)] for key, part in value.items()]
            return {"dict": pairs}
        case tuple() | list():
            parts = [take_apart(part, f"{name}.{i}", tensors) for i, part in enumerate(value)]
            return {type(value).__name__: parts}
        case np.generic():
            return value.item()
        case None | bool() | int() | float() | str():
            return value
    raise TypeError(f"{name} holds a {type(value).__name__}")


def put_together(part: Any, tensors: dict[str, Tensor]) -> Any:
    """The value that `take_apart` took apart."""
    match part:
        case {"tensor": name}:
            return tensors[name]
        case {"array": name, "dtype": dtype}:
            return tensors[name].numpy().astype(dtype)
        case {"dict": pairs}:
            return {key: put_together(value, tensors) for key, value in pairs}
        case {"tuple": parts}:
            return tuple(put_together(value, tensors) for value in parts)
        case {"list": parts}:
            return [put_together(value, tensors) for value in parts]
    return part


def _load(file: Path) -> Any:
    with safe_globals():
        return torch.load(file, map_location="cpu", weights_only=True)


def _weights(published: Path) -> list[Path]:
    if (published / ADAPTER_FILES[1]).is_file():
        return [published / name for name in ADAPTER_FILES]
    exact = (published / RESUME / SINGLE).is_file()
    return [published / "config.json", *weight_files(published / RESUME if exact else published)]
