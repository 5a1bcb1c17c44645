"""What is chosen for a quantization."""

from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True, slots=True)
class AwqOptions:
    """How to search: weights per group, dtype of storage, cost of the scale search.

    `coarse_tokens` rank all candidates, the best `finalists` are decided on all tokens, `chunk_tokens` at a time.
    """

    group_size: int = 128
    storage: torch.dtype = torch.float16
    coarse_tokens: int = 256
    finalists: int = 5
    chunk_tokens: int = 4096

    def on(self, device: torch.device) -> "AwqOptions":
        """The same, sized for an accelerator, where a small product costs as much as a larger one."""
        return self if device.type == "cpu" else replace(self, coarse_tokens=4096, chunk_tokens=16384)
