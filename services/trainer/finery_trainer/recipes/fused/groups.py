"""Linears with their adapters, in groups that read the same input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from finery_trainer.recipes.fused.operations import Down, Dropout, Up
from finery_trainer.recipes.fused.products import FrozenProduct


class UnfusableError(Exception):
    """The model isn't one that fused layers compute; the message says why."""


@dataclass(frozen=True)
class Adapter:
    """PEFT's own parameters: a (r, in), b (out, r)."""

    a: nn.Parameter
    b: nn.Parameter
    scale: float
    dropout: float

    @property
    def rank(self) -> int:
        """R."""
        return int(self.a.shape[0])


@dataclass(frozen=True)
class Cast:
    """A group's adapters in the type of the products: a's side by side (k·r, in), and each b, None without adapter."""

    a: Tensor | None
    b: tuple[Tensor | None, ...]


@dataclass(frozen=True)
class LinearGroup:
    """One frozen product whose outputs are ``outs`` wide, with an adapter or none for each."""

    product: FrozenProduct
    outs: tuple[int, ...]
    adapters: tuple[Adapter | None, ...]
    first_adapter: int
    """Number of this group's first output among the layer's linears: its dropout masks count from there."""

    @property
    def present(self) -> list[Adapter]:
        """The adapters that there are."""
        return [adapter for adapter in self.adapters if adapter is not None]

    @property
    def rank(self) -> int:
        """R of the adapters, 0 without any."""
        return self.present[0].rank if self.present else 0

    @property
    def scale(self) -> float:
        """What the adapters' products are multiplied by."""
        return self.present[0].scale if self.present else 1.0

    def parameters(self) -> list[nn.Parameter]:
        """a, b of each adapter in turn: the order in which the autograd functions take and give them."""
        return [parameter for adapter in self.present for parameter in (adapter.a, adapter.b)]

    def cast(self, parameters: Sequence[Tensor], dtype: torch.dtype) -> Cast:
        """The adapters as they are now, in the products' type, by one copy of many tensors."""
        if not parameters:
            return Cast(None, tuple(None for _ in self.outs))
        a_s, b_s = parameters[0::2], parameters[1::2]
        stacked = a_s[0].new_empty((len(a_s) * self.rank, a_s[0].shape[1]), dtype=dtype)
        copies = [torch.empty_like(b, dtype=dtype) for b in b_s]
        torch._foreach_copy_([*stacked.split(self.rank), *copies], [*a_s, *b_s])
        following = iter(copies)
        return Cast(stacked, tuple(None if adapter is None else next(following) for adapter in self.adapters))

    def offset(self, index: int) -> int:
        """First column of h of the index-th output's adapter."""
        return self.rank * sum(adapter is not None for adapter in self.adapters[:index])

    def up(self, index: int, h: Tensor | None, cast: Cast) -> Up | None:
        """What the index-th output's adapter adds."""
        b = cast.b[index]
        return None if b is None or h is None else Up(h, self.offset(index), b, self.scale)

    def down(self, g: Tensor | None, cast: Cast, dropout: Dropout | None) -> Down | None:
        """What the adapters add to the gradient of the input, from that of h."""
        if g is None or cast.a is None:
            return None
        return Down(g, cast.a, self.rank, self.dropped(dropout))

    def dropped(self, dropout: Dropout | None) -> Dropout | None:
        """The layer's dropout as this group's adapters see it."""
        return None if dropout is None else dropout.shifted(self.first_adapter)

    def spans(self) -> list[tuple[int, int]]:
        """First and last column (exclusive) of each output."""
        ends = [sum(self.outs[: i + 1]) for i in range(len(self.outs))]
        return [(end - out, end) for end, out in zip(ends, self.outs, strict=True)]

    def gradients(self, a: Tensor | None, b: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Gradients in the order of `parameters`; ``b`` has one entry an output."""
        if a is None:
            return []
        b_s = [gradient for gradient, adapter in zip(b, self.adapters, strict=True) if adapter is not None]
        pairs = zip(a.split(self.rank), b_s, strict=True)
        return [gradient for pair in pairs for gradient in pair]


def adapter_of(module: Any) -> tuple[Any, Adapter | None]:
    """A linear and its adapter, from what PEFT made of it; raises UnfusableError for what isn't plain LoRA."""
    if isinstance(module, nn.Linear):
        return module, None
    base = getattr(module, "base_layer", None)
    if not isinstance(base, nn.Linear) or not hasattr(module, "lora_A"):
        raise UnfusableError(f"{type(module).__name__} is no linear with a LoRA adapter")
    active = list(module.active_adapters)
    if len(active) != 1 or module.disable_adapters or module.merged:
        raise UnfusableError("there isn't exactly one active adapter")
    name = active[0]
    if name in module.lora_variant:
        raise UnfusableError("the adapter is a variant of LoRA (DoRA, say)")
    a, b = module.lora_A[name], module.lora_B[name]
    if b.bias is not None:
        raise UnfusableError("the adapter has a bias")
    dropout = getattr(module.lora_dropout[name], "p", 0.0)
    return base, Adapter(a.weight, b.weight, float(module.scaling[name]), float(dropout))
