"""What a pass of packed rows brings to every layer, and the attentions that read it."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from finery_trainer.recipes.attention import Segments, row_by_row, whole_rows


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


def by_flash(q: Tensor, k: Tensor, v: Tensor, segments: Segments, starts: Tensor | None, window: int | None) -> Tensor:
    """All rows at once: what a GPU computes. No beginning may be shared."""
    assert starts is not None
    return whole_rows(q, k, v, starts, max(map(max, segments)), window)


def attention_for(device: torch.device) -> PackedAttention:
    """The attention that suits a device."""
    return by_flash if device.type == "cuda" else by_rows
