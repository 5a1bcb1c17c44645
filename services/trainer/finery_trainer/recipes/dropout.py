"""Dropout for adapters on a CPU.

torch draws a CPU's masks one Bernoulli variable after the other, which is a sixth of a training step of a small model.
Here one draw of the same generator decides on four features, 16 bits each: that generator's state still is all that a
resumed run needs to go on with the same masks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_STEPS = 2**16
"""Probabilities are rounded to multiples of one in so many."""


class CpuDropout(nn.Dropout):  # type: ignore[misc]  # torch is not checked
    """`nn.Dropout` with masks that are drawn faster."""

    def forward(self, input: Tensor) -> Tensor:
        """``input`` of any shape with features zeroed and the others scaled up, when training."""
        if not self.training or self.p == 0:
            return input
        dropped = round(self.p * _STEPS)
        if dropped == _STEPS:
            return torch.zeros_like(input)
        count = input.numel()
        draws = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
        kept = draws.view(torch.int16)[:count].view(input.shape) >= dropped - _STEPS // 2
        return torch.where(kept, input, 0).mul_(_STEPS / (_STEPS - dropped))


def quicken_dropout(model: nn.Module) -> None:
    """Replace the dropout before a model's adapters where it runs on a CPU."""
    for module in model.modules():
        layers = getattr(module, "lora_dropout", None)
        if isinstance(layers, nn.ModuleDict) and _on_cpu(module):
            for name, layer in layers.items():
                if type(layer) is nn.Dropout:
                    layers[name] = CpuDropout(layer.p)


def _on_cpu(module: nn.Module) -> bool:
    return all(parameter.device.type == "cpu" for parameter in module.parameters())
