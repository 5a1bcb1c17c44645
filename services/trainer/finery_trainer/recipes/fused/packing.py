"""What a pass of packed rows brings to every layer, and the attentions that read it."""

from __future__ import annotations

import inspect
from typing import Protocol

import torch
from torch import Tensor

from finery_trainer.recipes.attention import Segments, row_by_row


class PackedAttention(Protocol):
    """Attention of packed rows, causal in each: (T, heads, size) queries, (T, key heads, size) keys and values."""

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, segments: Segments, starts: Tensor | None, window: int | None
    ) -> Tensor:
        """(T, heads, size). ``segments``: see `collator`; ``starts``: their cumulated lengths, int32, on the device."""


def by_rows(q: Tensor, k: Tensor, v: Tensor, segments: Segments, starts: Tensor | None, window: int | None) -> Tensor:
    """One attention a row, the shared beginning included: what a CPU computes."""
    query, key, value = (part.transpose(0, 1)[None] for part in (q, k, v))
    return row_by_row(query, key, value, segments, None, window)[0]


class VariableLength:
    """FlashAttention over rows of any lengths at once: what a GPU computes. No beginning may be shared."""

    def __init__(self) -> None:
        from torch.nn.attention.varlen import varlen_attn

        self._attend = varlen_attn
        self._grouped = "enable_gqa" in inspect.signature(varlen_attn).parameters

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, segments: Segments, starts: Tensor | None, window: int | None
    ) -> Tensor:
        """See `PackedAttention`."""
        longest = max(map(max, segments))
        options = {"enable_gqa": True} if self._grouped and q.shape[1] != k.shape[1] else {}
        left = -1 if window is None or window > longest else window - 1
        mixed: Tensor = self._attend(q, k, v, starts, starts, longest, longest, window_size=(left, 0), **options)
        return mixed


def attention_for(device: torch.device) -> PackedAttention:
    """The attention that suits a device."""
    return VariableLength() if device.type == "cuda" else by_rows
