"""AWQ as a quantization backend."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from finery_quantizer.backends.awq.quantizer import AwqOptions, AwqQuantizer
from finery_quantizer.backends.awq.readback import verified
from finery_quantizer.backends.awq.rounding import round_trip
from finery_quantizer.backends.awq.writer import QuantizedWriter
from finery_quantizer.backends.base import Tell, WrittenModel
from finery_quantizer.backends.checkpoint.config import read_config_json
from finery_quantizer.backends.checkpoint.model import load_model
from finery_quantizer.backends.checkpoint.shards import storage_dtype
from finery_shared.models import group_size_for


class AwqBackend:
    """Int4 by groups, GEMM format. Scales are stored in the model's own dtype, bf16 for a model in fp32."""

    def __init__(self, source: Path, device: torch.device) -> None:
        stored = storage_dtype(source)
        self._options = AwqOptions(
            group_size=group_size_for(read_config_json(source)),
            storage=stored if stored in (torch.float16, torch.bfloat16) else torch.bfloat16,
            device=device,
        )

    @property
    def figures(self) -> Mapping[str, float]:
        """What was chosen."""
        return {"group_size": float(self._options.group_size)}

    def quantize(self, source: Path, destination: Path, blocks: Sequence[Sequence[int]], tell: Tell) -> WrittenModel:
        """See QuantizationBackend."""
        model = load_model(source)
        writer = QuantizedWriter(source, destination, self._options.storage)
        quantizer = AwqQuantizer(self._options)
        for layer in quantizer.layers(model, model.config.model_type, torch.tensor(blocks)):
            writer.add(layer)
            tell(layer.index + 1, layer.count)
        writer.finish(self._options.group_size)
        return WrittenModel(destination, writer.fingerprints, frozenset(writer.quantized))

    def read_back(self, written: WrittenModel) -> Iterator[tuple[str, Tensor]]:
        """See QuantizationBackend."""
        return verified(written.directory, written.fingerprints)

    def rounded(self, weight: Tensor) -> Tensor:
        """See QuantizationBackend."""
        return round_trip(weight, self._options.group_size, self._options.storage)
