"""NEFTune (arXiv 2310.05914): uniform noise on the embeddings of training rows, for packed rows.

The noise of a row with L tokens of d features is uniform in ±alpha / sqrt(L·d). transformers' own hook takes the whole
batch for one row, which would shrink the noise of packed rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def noisy_embeddings(model: nn.Module, alpha: float | None) -> Iterator[None]:
    """Add the noise while this lasts and the model is in training; nothing happens without ``alpha``."""
    if alpha is None:
        yield
        return
    noise = _Noise(alpha)
    embeddings: Any = model.get_input_embeddings()
    handles = [
        model.register_forward_pre_hook(noise.see_positions, with_kwargs=True),
        embeddings.register_forward_hook(noise.add),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Noise:
    def __init__(self, alpha: float) -> None:
        self._alpha = alpha
        self._positions: Tensor | None = None

    def see_positions(self, _model: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        self._positions = kwargs.get("position_ids")

    def add(self, embeddings: nn.Module, _args: Any, output: Tensor) -> Tensor:
        if not embeddings.training:
            return output
        if self._positions is None:
            lengths = torch.full(output.shape[:2], output.shape[1], device=output.device)
        else:
            lengths = row_lengths(self._positions)
        scale = self._alpha / torch.sqrt(lengths * output.shape[-1])
        return output + (torch.rand_like(output) * 2 - 1) * scale[..., None].to(output.dtype)


def row_lengths(positions: Tensor) -> Tensor:
    """For every token of packed rows, (1, T), the length of its row.

    A row ends where positions don't go on rising. A beginning that rows share belongs to the first of them.
    """
    flat = positions[0]
    ends = torch.ones_like(flat, dtype=torch.bool)
    ends[1:] = flat[1:] <= flat[:-1]
    rows = ends.cumsum(0) - 1
    longest = torch.zeros_like(flat).scatter_reduce(0, rows, flat + 1, "amax", include_self=True)
    return longest[rows][None]
