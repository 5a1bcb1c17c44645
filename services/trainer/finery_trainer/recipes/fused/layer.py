"""A decoder layer that computes packed rows by the fused functions, and anything else as it did before."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from finery_trainer.recipes.attention import Segments
from finery_trainer.recipes.fused.functions import AfterAttention, BeforeAttention, LayerParts
from finery_trainer.recipes.fused.operations import Dropout, Rotation
from finery_trainer.recipes.fused.packing import PackedAttention


class FusedLayer(nn.Module):  # type: ignore[misc]  # torch is not checked
    """Takes a transformers decoder layer's place, its submodules under the same names: parameters keep their names."""

    def __init__(self, original: Any, parts: LayerParts, attention: PackedAttention, window: int | None) -> None:
        super().__init__()
        for name, child in original.named_children():
            self.add_module(name, child)
        self._original = (original,)  # in a tuple: its submodules are registered above, once
        self._parts = parts
        self._attention = attention
        self._window = window
        self.checkpointing = False
        """Whether the backward pass computes the layer again instead of keeping what it needs."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        segments: Segments | None = None,
        starts: Tensor | None = None,
        dropout_seeds: Tensor | None = None,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """(1, T, hidden) to the same; packed rows if ``segments`` is given."""
        if segments is None or position_embeddings is None:
            kwargs |= {"position_embeddings": position_embeddings}
            plain: Tensor = self._original[0](hidden_states, attention_mask=attention_mask, **kwargs)
            return plain
        cos, sin = (part[0] for part in position_embeddings)
        arguments = (hidden_states.flatten(0, 1), Rotation(cos, sin), segments, starts, self._dropout(dropout_seeds))
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(self._packed, *arguments, use_reentrant=False, preserve_rng_state=False)[None]
        return self._packed(*arguments)[None]

    def _packed(
        self, x: Tensor, rotation: Rotation, segments: Segments, starts: Tensor | None, dropout: Dropout | None
    ) -> Tensor:
        parts = self._parts
        later = [p for group in (parts.o, parts.gate_up, parts.down) for p in group.parameters()]
        x, q, k, v = BeforeAttention.apply(x, rotation, parts, dropout, *parts.qkv.parameters())
        mixed = self._attention(q, k, v, segments, starts, self._window).flatten(1)
        result: Tensor = AfterAttention.apply(x, mixed, parts, dropout, *later)
        return result

    def _dropout(self, seeds: Tensor | None) -> Dropout | None:
        adapters = [
            a for g in (self._parts.qkv, self._parts.o, self._parts.gate_up, self._parts.down) for a in g.present
        ]
        if not self.training or not adapters or adapters[0].dropout == 0 or seeds is None:
            return None
        layer = self._original[0].self_attn.layer_idx
        return Dropout(adapters[0].dropout, seeds).shifted(8 * layer)
