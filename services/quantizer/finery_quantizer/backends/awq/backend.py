"""AWQ as a quantization backend."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from finery_quantizer.backends.awq.finished import FinishedLayers
from finery_quantizer.backends.awq.memory import check_memory
from finery_quantizer.backends.awq.options import AwqOptions
from finery_quantizer.backends.awq.quantizer import AwqQuantizer
from finery_quantizer.backends.awq.readback import load_written
from finery_quantizer.backends.awq.rounding import round_trip
from finery_quantizer.backends.awq.writer import write_quantized
from finery_quantizer.backends.base import Tell, WrittenModel
from finery_quantizer.backends.checkpoint.config import read_config_json
from finery_quantizer.backends.checkpoint.shards import storage_dtype, weight_files
from finery_quantizer.backends.checkpoint.streamed import StreamedModel
from finery_shared.models import group_size_for

_HALF = (torch.float16, torch.bfloat16)


class AwqBackend:
    """Int4 by groups, GEMM format. Scales are stored in the model's own dtype, bf16 for a model in fp32.

    `state` is where finished layers are kept: a later call with the same source, blocks and options goes on there.
    """

    def __init__(self, source: Path, device: torch.device, state: Path, options: AwqOptions | None = None) -> None:
        stored = storage_dtype(source)
        storage = stored if stored in _HALF else torch.bfloat16
        chosen = options or AwqOptions().on(device)
        self._options = replace(chosen, group_size=group_size_for(read_config_json(source)), storage=storage)
        self._compute = torch.float32 if device.type == "cpu" or stored not in _HALF else stored
        self._device = device
        self._state = state

    @property
    def figures(self) -> Mapping[str, float]:
        """What was chosen."""
        return {"group_size": float(self._options.group_size)}

    def quantize(self, source: Path, destination: Path, blocks: Sequence[Sequence[int]], tell: Tell) -> WrittenModel:
        """See QuantizationBackend."""
        finished = FinishedLayers(self._state, _key(source, blocks, self._options))
        model = StreamedModel(source, self._device, self._compute)
        check_memory(model, len(blocks), len(blocks[0]), self._options)
        count = len(model.layers)
        tell(finished.count, count)
        with ThreadPoolExecutor(1, thread_name_prefix="finished-layers") as disk:
            kept = []
            for layer in AwqQuantizer(self._options).layers(model, torch.tensor(blocks), finished.count):
                kept.append(disk.submit(finished.add, layer))
                if len(kept) > 1:
                    kept[-2].result()  # never more than one layer behind: they would fill the memory
                tell(layer.index + 1, count)
        for layer_kept in kept:
            layer_kept.result()
        fingerprints = write_quantized(source, finished, destination, self._options.group_size, self._options.storage)
        return WrittenModel(destination, fingerprints, finished.quantized)

    def load(self, written: WrittenModel, dtype: torch.dtype) -> PreTrainedModel:
        """See QuantizationBackend."""
        return load_written(written, self._device, dtype)

    def rounded(self, weight: Tensor) -> Tensor:
        """See QuantizationBackend."""
        return round_trip(weight, self._options.group_size, self._options.storage)


def _key(source: Path, blocks: Sequence[Sequence[int]], options: AwqOptions) -> str:
    """What decides a finished layer's content: the files of the source, the calibration tokens, the options."""
    stats = [(file.name, (stat := file.stat()).st_size, stat.st_mtime_ns) for file in weight_files(source)]
    content = json.dumps([stats, list(map(list, blocks)), repr(options)])
    return hashlib.sha256(content.encode()).hexdigest()
