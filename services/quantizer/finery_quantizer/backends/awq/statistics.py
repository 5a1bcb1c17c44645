"""What is kept of a linear's inputs over all calibration tokens: never the inputs themselves."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

SAMPLE_TOKENS = 512


@dataclass
class InputStatistics:
    """Of the inputs [tokens, in] of one linear: the mean of their absolute values, and a strided sample.

    `tokens` is how many there will be in all; the sample is what AutoAWQ's clip search takes: every (tokens // 512)th.
    """

    tokens: int
    _total: Tensor | None = None
    _sample: list[Tensor] = field(default_factory=list)
    _seen: int = 0

    def add(self, inputs: Tensor) -> None:
        """Take the next tokens' inputs [blocks, length, in]."""
        flat = inputs.flatten(0, -2)
        total = torch.linalg.vector_norm(flat, ord=1, dim=0, dtype=torch.float32)
        self._total = total if self._total is None else self._total + total
        stride = max(1, self.tokens // SAMPLE_TOKENS)
        self._sample.append(flat[-self._seen % stride :: stride].float())
        self._seen += len(flat)

    @property
    def mean(self) -> Tensor:
        """Mean |input|, fp32 [in]."""
        assert self._total is not None
        return self._total / self.tokens

    @property
    def sample(self) -> Tensor:
        """Sampled inputs, fp32 [about 512, in]."""
        return torch.cat(self._sample)
