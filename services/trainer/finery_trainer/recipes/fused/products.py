"""The frozen part of a group of linears that read the same input: one matrix product, in the model's type or in FP8."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from finery_trainer.recipes.fused.operations import Operations


class FrozenProduct(Protocol):
    """y = x Wᵀ + bias for W (out, in), and the gradient of x."""

    def forward(self, x: Tensor) -> Tensor:
        """(T, in) to (T, out)."""

    def backward(self, g: Tensor, maxima: Tensor | None) -> Tensor:
        """(T, out) to (T, in). ``maxima``: see `GatedGradients`."""


class PlainProduct:
    """The product in the weights' own type."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight = weight
        self._bias = bias

    def forward(self, x: Tensor) -> Tensor:
        """(T, in) to (T, out)."""
        return functional.linear(x, self._weight, self._bias)

    def backward(self, g: Tensor, maxima: Tensor | None) -> Tensor:
        """(T, out) to (T, in)."""
        return g @ self._weight


class Float8Product:
    """The product of e4m3 rows: two copies of the weights, one scaled by output, one by input, a byte a value each."""

    def __init__(self, weight: Tensor, bias: Tensor | None, operations: Operations) -> None:
        self._operations = operations
        self._bias = bias
        self._by_output = operations.quantize(weight)
        self._by_input = operations.quantize(weight.t().contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """(T, in) to (T, out)."""
        return self._operations.scaled_product(*self._operations.quantize(x), *self._by_output, self._bias)

    def backward(self, g: Tensor, maxima: Tensor | None) -> Tensor:
        """(T, out) to (T, in)."""
        return self._operations.scaled_product(*self._operations.quantize(g, maxima), *self._by_input, None)

    def part(self, start: int, end: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Outputs start to end: their values, scales and bias."""
        values, scales = self._by_output
        return values[start:end], scales[start:end], None if self._bias is None else self._bias[start:end]


class Float8Linear(nn.Module):  # type: ignore[misc]  # torch is not checked
    """Stands where a linear was whose weights are kept in FP8; computes what it did, slowly, on the restored values."""

    def __init__(self, product: Float8Product, start: int, end: int, dtype: torch.dtype) -> None:
        super().__init__()
        self._product, self._start, self._end, self._dtype = product, start, end, dtype

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) to (…, out)."""
        values, scales, bias = self._product.part(self._start, self._end)
        return functional.linear(x, (values.float() * scales).to(self._dtype), bias)


def share(linears: list[Any]) -> tuple[Tensor, Tensor | None]:
    """Lay the weights (and biases) of linears one below the other; each becomes a view of its part of what returns."""
    if len(linears) == 1:
        return linears[0].weight.detach(), None if linears[0].bias is None else linears[0].bias.detach()
    weight = torch.cat([linear.weight.detach() for linear in linears])
    biased = any(linear.bias is not None for linear in linears)
    bias = torch.cat([_bias(linear) for linear in linears]) if biased else None
    start = 0
    for linear in linears:
        end = start + linear.weight.shape[0]
        linear.weight.data = weight[start:end]
        if bias is not None and linear.bias is not None:
            linear.bias.data = bias[start:end]
        start = end
    return weight, bias


def _bias(linear: Any) -> Tensor:
    return linear.weight.new_zeros(linear.weight.shape[0]) if linear.bias is None else linear.bias.detach()
