"""Output head and cross-entropy without all logits at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from finery_trainer.recipes.fused.operations import Operations


class LinearCrossEntropy(torch.autograd.Function):  # type: ignore[misc]  # torch is not checked
    """Sum of the losses at P of (T, hidden) states, for frozen weights (V, hidden); the gradient is made on the way."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, positions: Tensor, targets: Tensor, operations: Operations, chunk: int
    ) -> Tensor:
        """Scalar, fp32. Logits of ``chunk`` states at a time exist."""
        states = hidden.index_select(0, positions)
        gradient = torch.empty_like(states) if ctx.needs_input_grad[0] else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for start in range(0, states.shape[0], chunk):
            part = slice(start, start + chunk)
            losses, g = operations.cross_entropy(states[part] @ weight.t(), targets[part])
            total += losses.sum()
            if gradient is not None:
                torch.mm(g, weight, out=gradient[part])
        ctx.save_for_backward(gradient, positions)
        ctx.shape = hidden.shape
        return total

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        """See the class."""
        gradient, positions = ctx.saved_tensors
        whole = gradient.new_zeros(ctx.shape)
        whole.index_add_(0, positions, (gradient * scale).to(gradient.dtype))
        return whole, None, None, None, None, None


class LossHead(nn.Module):  # type: ignore[misc]  # torch is not checked
    """Takes the output head's place, with its weight; on request it hands the states on, for the loss to multiply."""

    def __init__(self, original: Any, operations: Operations, chunk: int) -> None:
        super().__init__()
        self.weight = original.weight
        self._operations = operations
        self._chunk = chunk
        self._deferring = False

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits, or while deferred the states themselves."""
        return hidden if self._deferring else functional.linear(hidden, self.weight)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Within, `forward` gives back what it gets."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False

    def loss(self, hidden: Tensor, positions: Tensor, targets: Tensor) -> Tensor:
        """Sum of the cross-entropies of (T, hidden) states at (P,) positions with (P,) targets, where not negative."""
        arguments = (hidden, self.weight.detach(), positions, targets, self._operations, self._chunk)
        total: Tensor = LinearCrossEntropy.apply(*arguments)
        return total
