"""What every quantization method can do: one implementation a `quant_method`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

Tell = Callable[[int, int], None]
"""Called with the layers done and their number, at the start and after each; may raise to stop the work."""


@dataclass(frozen=True, slots=True)
class WrittenModel:
    """A quantized model on disk, the fingerprints of what has to be found there, and which weights were quantized."""

    directory: Path
    fingerprints: Mapping[str, str]
    quantized: frozenset[str]


class QuantizationBackend(Protocol):
    """One method of quantization."""

    def quantize(self, source: Path, destination: Path, blocks: Sequence[Sequence[int]], tell: Tell) -> WrittenModel:
        """Quantize the model in `source` by what token `blocks` [blocks, length] make of it, and write it.

        Layers that an earlier call finished before it was killed are used again. Raises MODEL_INVALID, UNSUPPORTED,
        OUT_OF_MEMORY with an estimate when the model can't fit, DISK_FULL.
        """

    def load(self, written: WrittenModel, dtype: torch.dtype) -> PreTrainedModel:
        """The written model as it is on disk, computing in `dtype` on the backend's device.

        Raises GATE_FAILED naming the first tensor that isn't what was meant to be written.
        """

    def rounded(self, weight: Tensor) -> Tensor:
        """`weight` [out, in] after this method's rounding without any search, fp32."""

    @property
    def figures(self) -> Mapping[str, float]:
        """What was chosen for this model, by name."""
