"""Folding: every base shard plus the updates of its tensors, one shard in memory at a time."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from finery_quantizer.backends.checkpoint.shards import (
    INDEX,
    copy_verbatim,
    read_tensors,
    small_files,
    weight_files,
    write_shard,
)
from finery_quantizer.backends.lora.adapter import LoraUpdate
from finery_shared.artifacts import disk_errors


def fold(base: Path, updates: Mapping[str, LoraUpdate], destination: Path) -> Iterator[tuple[int, int]]:
    """Write the merged model into the empty directory `destination`; yields (shards done, shards) after each.

    Shards, index, config, tokenizer, chat template and generation config stay those of the base; sums are made in fp32
    and rounded once to the dtype of the base's tensor. Tied embeddings stay tied: no tensor is added.
    """
    destination.mkdir(parents=True)
    files = weight_files(base)
    with disk_errors(destination):
        copy_verbatim(small_files(base), destination)
        if (base / INDEX).is_file():
            copy_verbatim([base / INDEX], destination)
        for done, file in enumerate(files, start=1):
            write_shard(
                destination / file.name, {name: _merged(t, updates.get(name)) for name, t in read_tensors(file)}
            )
            yield done, len(files)


def _merged(tensor: Tensor, update: LoraUpdate | None) -> Tensor:
    return tensor if update is None else update.apply(tensor).to(tensor.dtype)
