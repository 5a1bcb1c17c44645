"""How many tokens one forward and backward pass takes, and what it is filled up to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from finery_trainer.recipes.collator import learned
from finery_trainer.recipes.fused.fuse import FusedModel

if TYPE_CHECKING:
    from finery_trainer.recipes.rows import Row

ROW_MULTIPLE = 64
"""On a GPU the tokens of a pass are filled up to a multiple of this, the rows of the kernels' tiles."""

_CPU = 2048
_GPU = 8192
"""More fill the GPU no better."""

_GPU_UNFUSED = 4096
_COARSEST = 256
"""Tokens by which shapes of recorded passes differ at most."""

_RESERVE = 0.12
"""Share of the free memory that stays free: fragments, and what isn't counted below."""

_TRANSIENT_LAYERS = 3
"""A layer in work has about as much again in flight as it keeps: gradients, products, their quantized copies."""


@dataclass(frozen=True)
class PassLimit:
    """Tokens that a pass may have, and whether layers are computed again in the backward pass."""

    tokens: int
    checkpointing: bool = False


@dataclass(frozen=True)
class PassShape:
    """What a pass is filled up to: tokens, positions that predict, row boundaries, longest row."""

    tokens: int
    predictions: int | None = None
    boundaries: int | None = None
    longest: int | None = None


def pass_limit(device: torch.device, fused: FusedModel | None, longest: int, wanted: int | None = None) -> PassLimit:
    """The limit for rows of up to ``longest`` tokens: what fills the device and, on a GPU, fits its free memory."""
    if device.type != "cuda":
        return PassLimit(wanted or _CPU)
    if fused is None:
        return PassLimit(wanted or _GPU_UNFUSED)
    return limit_within(free_bytes(device), fused, longest, wanted or _GPU)


def limit_within(free: int, fused: FusedModel, longest: int, wanted: int) -> PassLimit:
    """The limit for so much free memory, in bytes. Without room for ``longest`` tokens, layers are computed twice."""
    available = free * (1 - _RESERVE) - fused.head_bytes
    transient = _TRANSIENT_LAYERS * fused.bytes_a_token / len(fused.layers)
    for kept, checkpointing in ((fused.bytes_a_token, False), (fused.bytes_checkpointed, True)):
        fits = _rounded_down(available / (kept + transient))
        if fits >= max(longest, min(wanted, 2 * ROW_MULTIPLE)):
            return PassLimit(min(wanted, fits) if longest <= wanted else longest, checkpointing)
    return PassLimit(max(longest, ROW_MULTIPLE), checkpointing=True)


def shape_for(rows: Sequence[Row], longest: int, *, recorded: bool) -> PassShape:
    """What a GPU pass is filled up to: one of few shapes where passes are recorded, else to whole tiles."""
    tokens = _rounded_up(sum(len(row.input_ids) for row in rows), ROW_MULTIPLE)
    if not recorded:
        return PassShape(tokens)
    step = min(_COARSEST, max(ROW_MULTIPLE, 1 << (tokens.bit_length() - 4)))  # a sixteenth to an eighth, or less
    coarse = _rounded_up(tokens, step)
    return PassShape(
        tokens=coarse,
        predictions=_rounded_up(learned(rows), coarse // 8),
        boundaries=_rounded_up(len(rows) + 2, 32),
        longest=_rounded_up(longest, 128),
    )


def free_bytes(device: torch.device) -> int:
    """Memory that this process can still get: free on the device, or cached by torch."""
    free, _ = torch.cuda.mem_get_info(device)
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(free + cached)


def _rounded_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _rounded_down(value: float) -> int:
    return int(value) // ROW_MULTIPLE * ROW_MULTIPLE
