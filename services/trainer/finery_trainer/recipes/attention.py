"""Attention over packed rows: each row sees itself and the beginning that its group shares; no more is computed.

One masked attention over a packed sequence of T tokens costs T², most of it masked; on a CPU that is a quarter of a
step of a small model. Row by row it costs the sum of the rows' squares.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "finery_packed"

Segments = Sequence[Sequence[int]]
"""Lengths in tokens of what a packed sequence is made of, by groups; see `row_by_row`."""


def register() -> str:
    """Make this attention known to transformers; returns the name for ``attn_implementation``. Harmless to repeat."""
    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME


def packed_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    segments: Segments | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    starts: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of (1, heads, T, size) queries over (1, key heads, T, size); plain SDPA when ``segments`` is None.

    For ``segments`` see `row_by_row`; ``starts`` (see `whole_rows`) comes with rows of which none shares a beginning.
    """
    if segments is None:
        options = {"dropout": dropout, "scaling": scaling, **kwargs}
        plain: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return plain
    if starts is not None and query.is_cuda and query.dtype != torch.float32 and dropout == 0:
        q, k, v = (part[0].transpose(0, 1) for part in (query, key, value))
        return whole_rows(q, k, v, starts, max(map(max, segments)), sliding_window, scaling)[None], None
    return row_by_row(query, key, value, segments, scaling, sliding_window, dropout), None


def whole_rows(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts: Tensor,
    longest: int,
    window: int | None = None,
    scaling: float | None = None,
) -> Tensor:
    """FlashAttention over rows of any lengths at once, on a GPU: (T, heads, size) and (T, key heads, size).

    ``starts`` says where each row begins and the last one ends, int32, on the device.
    """
    from torch.nn.attention.varlen import varlen_attn

    grouped = query.shape[1] != key.shape[1] and "enable_gqa" in inspect.signature(varlen_attn).parameters
    options = {"enable_gqa": True} if grouped else {}
    left = -1 if window is None or window > longest else window - 1
    mixed: Tensor = varlen_attn(
        query, key, value, starts, starts, longest, longest, scale=scaling, window_size=(left, 0), **options
    )
    return mixed


def row_by_row(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: Segments,
    scaling: float | None = None,
    sliding_window: int | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """The rows' attentions one after the other: (1, heads, T, size) and (1, key heads, T, size) to (1, T, heads, size).

    ``segments`` are groups of rows with a beginning of their own: its length, which may be 0, then those of the rows'
    own parts; all groups together T.
    """
    dtype = query.dtype
    if query.device.type == "cpu":
        # SDPA's backward pass in bf16 is three times slower than in fp32 there (0.6 ms against 1.7 ms for a short row).
        query, key, value = query.float(), key.float(), value.float()
    groups = query.shape[1] // key.shape[1]
    key = repeat_kv(key, groups)
    value = repeat_kv(value, groups)
    sizes = [sum(group) for group in segments]
    parts = zip(*(whole.split(sizes, dim=2) for whole in (query, key, value)), segments, strict=True)
    outputs = [out for q, k, v, group in parts for out in _group(q, k, v, group, scaling, sliding_window, dropout)]
    return torch.cat(outputs, dim=2).transpose(1, 2).to(dtype).contiguous()


def _group(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: Sequence[int],
    scaling: float | None,
    window: int | None,
    dropout: float,
) -> Iterator[Tensor]:
    """The attentions of one group: its shared beginning's, then its rows'."""
    shared = lengths[0]
    keys, values = key.split(list(lengths), dim=2), value.split(list(lengths), dim=2)
    for i, own in enumerate(query.split(list(lengths), dim=2)):
        start = 0 if i == 0 else shared
        if own.shape[2] == 0:
            continue
        yield scaled_dot_product_attention(
            own,
            torch.cat([keys[0], keys[i]], dim=2) if start else keys[i],
            torch.cat([values[0], values[i]], dim=2) if start else values[i],
            attn_mask=visible(start, own.shape[2], window, own.device),
            dropout_p=dropout,
            scale=scaling,
        )


def visible(shared: int, own: int, window: int | None, device: torch.device) -> Tensor:
    """Which of shared + own keys a row's own tokens see, (own, shared + own): those before them, in the window."""
    mask = torch.ones(own, shared + own, dtype=torch.bool, device=device).tril(shared)
    return mask if window is None else mask.triu(shared - window + 1)
