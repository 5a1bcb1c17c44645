"""Folding: every base shard plus the changes of its tensors, a few tensors in memory at a time."""

import json
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from finery_quantizer.backends.checkpoint.config import load_config, read_config_json
from finery_quantizer.backends.checkpoint.shards import (
    INDEX,
    MappedTensors,
    copy_verbatim,
    read_entries,
    small_files,
    stream_shard,
    tensor_shapes,
    weight_files,
    write_index,
)
from finery_quantizer.backends.lora.adapter import Adapter, check_fits
from finery_shared.artifacts import disk_errors

_HEAD = "lm_head.weight"
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight")
_AT_A_TIME = min(4, os.cpu_count() or 1)
"""Tensors that are made at a time."""


def fold(base: Path, adapter: Adapter, destination: Path) -> Iterator[tuple[int, int]]:
    """Write the merged model into the empty directory `destination`; yields (shards done, shards) after each.

    Shards, config, tokenizer, chat template and generation config stay those of the base. Tied embeddings stay tied
    unless the adapter changes one side of them: then the head gets a tensor of its own, beside the embeddings, and the
    config says so. Raises MODEL_INVALID when the adapter was trained on another base.
    """
    shapes = tensor_shapes(base)
    shared = _shared_embeddings(base, shapes)
    untied = shared is not None and not adapter.keeps_tied and bool(adapter.changed & {shared, _HEAD})
    check_fits(adapter, shapes | ({_HEAD: shapes[shared]} if shared else {}), base)
    destination.mkdir(parents=True)
    files, tensors = weight_files(base), MappedTensors(base)
    weight_map: dict[str, str] = {}
    total = 0
    with disk_errors(destination), _one_thread_each() as pool:
        copy_verbatim(small_files(base), destination)
        for done, file in enumerate(files, start=1):
            entries = {name: entry for name, entry in read_entries(file).items() if not (untied and name == _HEAD)}
            if untied and shared in entries:
                entries[_HEAD] = entries[shared]
            stream_shard(destination / file.name, entries, _merged(pool, tensors, adapter, entries, shared))
            weight_map |= dict.fromkeys(entries, file.name)
            total += sum(entry.size for entry in entries.values())
            yield done, len(files)
        if untied:
            write_index(destination, weight_map, total)
            config = read_config_json(base) | {"tie_word_embeddings": False}
            (destination / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        elif (base / INDEX).is_file():
            copy_verbatim([base / INDEX], destination)


def _merged(
    pool: Executor, base: MappedTensors, adapter: Adapter, names: Iterable[str], shared: str | None
) -> Iterator[Tensor]:
    """The tensors of these names in order, a few made at a time."""

    def make(name: str) -> Tensor:
        return adapter.apply(name, base.get(shared if shared and name == _HEAD else name))

    coming: deque[Future[Tensor]] = deque()
    for name in names:
        coming.append(pool.submit(make, name))
        if len(coming) > _AT_A_TIME:
            yield coming.popleft().result()
    while coming:
        yield coming.popleft().result()


@contextmanager
def _one_thread_each() -> Iterator[Executor]:
    """A pool whose threads add up one tensor each: that scales better than all cores on one."""
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(_AT_A_TIME, "merge", lambda: torch.set_num_threads(1)) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)


def _shared_embeddings(base: Path, shapes: dict[str, tuple[int, ...]]) -> str | None:
    """The name of the input embeddings if they are the head as well."""
    if not load_config(base).tie_word_embeddings:
        return None
    return next((name for name in shapes if name.endswith(_EMBEDDINGS)), None)
