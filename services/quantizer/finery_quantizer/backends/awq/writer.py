"""Writes a quantized model as AutoAWQ does: a plain Hugging Face directory that vLLM loads unchanged."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finery_quantizer.backends.awq.quantizer import QuantizedLayer
from finery_quantizer.backends.checkpoint.config import read_config_json
from finery_quantizer.backends.checkpoint.fingerprint import fingerprint
from finery_quantizer.backends.checkpoint.shards import (
    SINGLE,
    copy_verbatim,
    read_tensors,
    small_files,
    weight_files,
    write_index,
    write_shard,
)
from finery_shared.artifacts import disk_errors

_SHARD_BYTES = 4 * 2**30


class QuantizedWriter:
    """Takes finished layers and writes the model around them, a shard at a time."""

    def __init__(self, source: Path, destination: Path, storage: torch.dtype) -> None:
        self._source = source
        self._destination = destination
        self._storage = storage
        self._pending: dict[str, Tensor] = {}
        self._parts: list[list[str]] = []
        self._bytes = 0
        self._total = 0
        self._replaced: set[str] = set()
        self.fingerprints: dict[str, str] = {}
        """What has to be found in the files, by name; packed linears under their weight's name."""
        self.quantized: set[str] = set()
        """Names of the weights that were packed."""
        destination.mkdir(parents=True)

    def add(self, layer: QuantizedLayer) -> None:
        """Take a finished layer."""
        for name, packed in layer.packed.items():
            self.quantized.add(f"{name}.weight")
            for suffix, tensor in packed.tensors().items():
                self._put(f"{name}.{suffix}", tensor)
        for name, tensor in layer.kept.items():
            self._replaced.add(name)
            self._put(name, tensor)
        self.fingerprints |= layer.fingerprints

    def finish(self, group_size: int) -> None:
        """Add what is not quantized (embeddings, head, last norm) and the small files, and name the shards."""
        for file in weight_files(self._source):
            for name, tensor in read_tensors(file):
                if name not in self._replaced | self.quantized:
                    kept = tensor.to(self._storage) if tensor.is_floating_point() else tensor
                    self.fingerprints[name] = fingerprint(kept)
                    self._put(name, kept)
        self._flush()
        weight_map: dict[str, str] = {}
        for number, names in enumerate(self._parts, start=1):
            final = SINGLE if len(self._parts) == 1 else f"model-{number:05d}-of-{len(self._parts):05d}.safetensors"
            self._part(number).rename(self._destination / final)
            weight_map |= dict.fromkeys(names, final)
        with disk_errors(self._destination):
            write_index(self._destination, weight_map, self._total)
            copy_verbatim([f for f in small_files(self._source) if f.name != "config.json"], self._destination)
            config = quantized_config(read_config_json(self._source), group_size, self._storage)
            (self._destination / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    def _put(self, name: str, tensor: Tensor) -> None:
        if self._pending and self._bytes + tensor.nbytes > _SHARD_BYTES:
            self._flush()
        self._pending[name] = tensor
        self._bytes += tensor.nbytes

    def _flush(self) -> None:
        self._parts.append(list(self._pending))
        with disk_errors(self._destination):
            write_shard(self._part(len(self._parts)), self._pending)
        self._total += self._bytes
        self._pending, self._bytes = {}, 0

    def _part(self, number: int) -> Path:
        return self._destination / f"part-{number}.safetensors"


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
