"""What every quantization method can do: one implementation a `quant_method`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

Tell = Callable[[int, int], None]
"""Called after each layer with the layers done and their number; may raise to stop the work."""


@dataclass(frozen=True, slots=True)
class WrittenModel:
    """A quantized model on disk, the fingerprints of what has to be found there, and which weights were quantized."""

    directory: Path
    fingerprints: Mapping[str, str]
    quantized: frozenset[str]


class QuantizationBackend(Protocol):
    """One method of quantization."""

    def quantize(self, source: Path, destination: Path, blocks: Sequence[Sequence[int]], tell: Tell) -> WrittenModel:
        """Quantize the model in `source` by what token `blocks` make of it, and write it to `destination`."""

    def read_back(self, written: WrittenModel) -> Iterator[tuple[str, Tensor]]:
        """The model's tensors by their names in `source`, dequantized, as they are on disk.

        Raises GATE_FAILED naming the first that isn't what was meant to be written.
        """

    def rounded(self, weight: Tensor) -> Tensor:
        """`weight` [out, in] after this method's rounding without any search, fp32."""

    @property
    def figures(self) -> Mapping[str, float]:
        """What was chosen for this model, by name."""
