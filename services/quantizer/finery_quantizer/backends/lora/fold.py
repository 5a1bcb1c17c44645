"""Folding: every base shard plus the changes of its tensors, one shard in memory at a time."""

import json
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from finery_quantizer.backends.checkpoint.config import load_config, read_config_json
from finery_quantizer.backends.checkpoint.shards import (
    INDEX,
    copy_verbatim,
    read_tensors,
    small_files,
    tensor_shapes,
    weight_files,
    write_index,
    write_shard,
)
from finery_quantizer.backends.lora.adapter import Adapter, check_fits
from finery_shared.artifacts import disk_errors

_HEAD = "lm_head.weight"
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight")


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
    files = weight_files(base)
    weight_map: dict[str, str] = {}
    total = 0
    with disk_errors(destination):
        copy_verbatim(small_files(base), destination)
        for done, file in enumerate(files, start=1):
            merged: dict[str, Tensor] = {}
            for name, tensor in read_tensors(file):
                if untied and name == _HEAD:
                    continue
                merged[name] = adapter.apply(name, tensor)
                if untied and name == shared:
                    merged[_HEAD] = adapter.apply(_HEAD, tensor)
            write_shard(destination / file.name, merged)
            weight_map |= dict.fromkeys(merged, file.name)
            total += sum(tensor.nbytes for tensor in merged.values())
            yield done, len(files)
        if untied:
            write_index(destination, weight_map, total)
            config = read_config_json(base) | {"tie_word_embeddings": False}
            (destination / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        elif (base / INDEX).is_file():
            copy_verbatim([base / INDEX], destination)


def _shared_embeddings(base: Path, shapes: dict[str, tuple[int, ...]]) -> str | None:
    """The name of the input embeddings if they are the head as well."""
    if not load_config(base).tie_word_embeddings:
        return None
    return next((name for name in shapes if name.endswith(_EMBEDDINGS)), None)
