"""Weights in safetensors files: which tensors a model directory holds, and copies in another type."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def tensors(directory: Path) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a model directory by its name, one in memory at a time. Raises OSError, SafetensorError."""
    for file in weight_files(directory):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a mapping
                yield name, opened.get_tensor(name)


def weight_files(directory: Path) -> list[Path]:
    """The files that hold a model's weights. Raises OSError when there are none."""
    if (directory / SINGLE).is_file():
        return [directory / SINGLE]
    index = json.loads((directory / INDEX).read_text(encoding="utf-8"))
    return [directory / name for name in sorted(set(index["weight_map"].values()))]


def save_readable(named: Mapping[str, Tensor], file: Path) -> None:
    """Write a safetensors file that whoever may read the directory's other new files may read, not its owner alone."""
    file.touch()
    mode = file.stat().st_mode
    save_file(dict(named), file, metadata={"format": "pt"})
    file.chmod(mode)


def copy_like(source: Path, model: Path, target: Path) -> None:
    """Copy a saved model's weights into another directory, every tensor in the type that it has in ``model``."""
    types = {name: tensor.dtype for name, tensor in tensors(model)}
    size, places = 0, {}
    for file in weight_files(source):
        shard = {}
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a mapping
                tensor = opened.get_tensor(name)
                shard[name] = tensor.to(types.get(name, tensor.dtype)).contiguous()
                size += shard[name].nbytes
                places[name] = file.name
        save_readable(shard, target / file.name)
    if not (target / SINGLE).exists():
        index = {"metadata": {"total_size": size}, "weight_map": places}
        (target / INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")
