"""How many tokens one forward and backward pass takes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from finery_trainer.recipes.fused.fuse import FusedModel

ROW_MULTIPLE = 64
"""On a GPU the tokens of a pass are filled up to a multiple of this, the rows of the kernels' tiles."""

_CPU = 2048
_GPU = 8192
"""More fill the GPU no better."""

_GPU_UNFUSED = 4096
_RESERVE = 0.12
"""Share of the free memory that stays free: fragments, and what isn't counted below."""

_TRANSIENT_LAYERS = 3
"""A layer in work has about as much again in flight as it keeps: gradients, products, their quantized copies."""


@dataclass(frozen=True)
class PassLimit:
    """Tokens that a pass may have, and whether layers are computed again in the backward pass."""

    tokens: int
    checkpointing: bool = False


def pass_limit(device: torch.device, fused: FusedModel | None, longest: int, wanted: int | None = None) -> PassLimit:
    """The limit for rows of up to ``longest`` tokens: what fills the device and, on a GPU, fits its free memory."""
    if device.type != "cuda":
        return PassLimit(wanted or _CPU)
    if fused is None:
        return PassLimit(wanted or _GPU_UNFUSED)
    return limit_within(free_bytes(device), fused, longest, wanted or _GPU)


def limit_within(free: int, fused: FusedModel, longest: int, wanted: int) -> PassLimit:
    """The limit for so much free memory, in bytes. Without room for ``longest`` tokens, layers are computed twice."""
    layers = len(fused.layers)
    available = free * (1 - _RESERVE) - fused.head_bytes
    share = fused.bytes_a_token / layers
    for kept, checkpointing in ((fused.bytes_a_token, False), (fused.bytes_checkpointed, True)):
        fits = int(available / (kept + _TRANSIENT_LAYERS * share)) // ROW_MULTIPLE * ROW_MULTIPLE
        if fits >= max(longest, min(wanted, 2 * ROW_MULTIPLE)):
            return PassLimit(min(wanted, fits) if longest <= wanted else longest, checkpointing)
    return PassLimit(max(longest, ROW_MULTIPLE), checkpointing=True)


def free_bytes(device: torch.device) -> int:
    """Memory that this process can still get: free on the device, or cached by torch."""
    free, _ = torch.cuda.mem_get_info(device)
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(free + cached)
