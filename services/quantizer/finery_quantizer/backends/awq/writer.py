"""Writes a quantized model as AutoAWQ does: a plain Hugging Face directory that vLLM loads unchanged."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finery_quantizer.backends.awq.finished import FinishedLayers
from finery_quantizer.backends.checkpoint.config import read_config_json
from finery_quantizer.backends.checkpoint.fingerprint import fingerprint
from finery_quantizer.backends.checkpoint.shards import (
    SINGLE,
    MappedTensors,
    copy_verbatim,
    read_tensors,
    small_files,
    write_index,
    write_shard,
)
from finery_shared.artifacts import disk_errors

_SHARD_BYTES = 4 * 2**30


def write_quantized(
    source: Path, layers: FinishedLayers, destination: Path, group_size: int, storage: torch.dtype
) -> dict[str, str]:
    """Writes the model around its finished `layers` into the new directory `destination`.

    A small model becomes one file; otherwise each layer stays the file that it is, and what is not quantized
    (embeddings, head, last norm) becomes one more. Returns what has to be found in the files, by the tensor's name.
    """
    destination.mkdir(parents=True)
    with disk_errors(destination):
        rest, fingerprints = _rest(source, layers, storage)
        if sum(t.nbytes for t in rest.values()) + sum(f.stat().st_size for f in layers.files) <= _SHARD_BYTES:
            every = dict(pair for file in layers.files for pair in read_tensors(file))
            write_shard(destination / SINGLE, every | rest)
        else:
            _write_shards(layers, rest, destination)
        copy_verbatim([f for f in small_files(source) if f.name != "config.json"], destination)
        config = quantized_config(read_config_json(source), group_size, storage)
        (destination / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return fingerprints


def _rest(source: Path, layers: FinishedLayers, storage: torch.dtype) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The source's tensors that no finished layer has, and the fingerprints of all."""
    tensors, there = MappedTensors(source), layers.fingerprints
    names = sorted(tensors.names() - there.keys() - layers.quantized)
    kept = {name: tensors.get(name) for name in names}
    rest = {name: t.to(storage) if t.is_floating_point() else t for name, t in kept.items()}
    return rest, there | {name: fingerprint(tensor) for name, tensor in rest.items()}


def _write_shards(layers: FinishedLayers, rest: Mapping[str, Tensor], destination: Path) -> None:
    count = layers.count + 1
    weight_map: dict[str, str] = {}
    total = sum(tensor.nbytes for tensor in rest.values())
    for number, file in enumerate(layers.files, start=1):
        shard = destination / f"model-{number:05d}-of-{count:05d}.safetensors"
        _link(file, shard)
        for name, tensor in read_tensors(shard):
            weight_map[name] = shard.name
            total += tensor.nbytes
    last = destination / f"model-{count:05d}-of-{count:05d}.safetensors"
    write_shard(last, rest)
    write_index(destination, weight_map | dict.fromkeys(rest, last.name), total)


def _link(file: Path, destination: Path) -> None:
    """The same file under another name, which takes no room, so that the finished layers stay until the job ends."""
    try:
        os.link(file, destination)
    except OSError:  # some file systems have no hard links
        shutil.copyfile(file, destination)


def quantized_config(config: Mapping[str, Any], group_size: int, storage: torch.dtype) -> dict[str, Any]:
    """The source's config.json with AutoAWQ's `quantization_config`, and the dtype if it had to change."""
    name = str(storage).removeprefix("torch.")
    key = "dtype" if "dtype" in config else "torch_dtype"
    quantization = {
        "quant_method": "awq",
        "zero_point": True,
        "group_size": group_size,
        "bits": 4,
        "version": "gemm",
        "modules_to_not_convert": None,
    }
    return {**config, key: name, "quantization_config": quantization}
