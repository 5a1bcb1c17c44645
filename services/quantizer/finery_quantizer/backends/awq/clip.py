"""Clip search: for each group of weights the shrunken range whose int4 form disturbs the output least."""

import torch
from torch import Tensor

from finery_quantizer.backends.awq.rounding import round_trip

SHRINKS = 10
STEP = 1 / 20
# The product q·k amplifies what clipping does to either of them, so AutoAWQ leaves these as they are.
_UNCLIPPED = ("q_", "k_", "query", "key", "Wqkv")


def is_clipped(linear: str) -> bool:
    """Whether the linear of this name is clipped at all."""
    return not any(part in linear for part in _UNCLIPPED)


def group_grams(inputs: Tensor, group: int) -> Tensor:
    """Inputs [tokens, in] -> mean of x xᵀ within each group, fp32 [groups, group, group]."""
    by_group = inputs.float().unflatten(1, (-1, group)).transpose(0, 1)
    return by_group.transpose(1, 2) @ by_group / len(inputs)


def search_clip(weight: Tensor, grams: Tensor, group: int) -> Tensor:
    """The bound of each group, fp32 [out, groups, 1].

    The squared output error of a group whose weights change by d is d H dᵀ with H the Gram matrix of its inputs: the
    same figure as multiplying by every token, at the price of one [out, group] x [group, group] product.
    """
    groups = weight.float().unflatten(1, (-1, group))
    top = groups.abs().amax(-1, keepdim=True)
    best, least = top.clone(), torch.full_like(top, torch.inf)
    for step in range(SHRINKS):
        bound = top * (1 - step * STEP)
        clipped = groups.clamp(-bound, bound)
        change = (groups - round_trip(clipped.flatten(1), group).view_as(groups)).transpose(0, 1)
        error = ((change @ grams) * change).sum(-1).t().unsqueeze(-1)
        best = torch.where(error < least, bound, best)
        least = torch.minimum(error, least)
    return best


def clip(weight: Tensor, bound: Tensor) -> Tensor:
    """`weight` [out, in] held within `bound` [out, groups, 1]."""
    groups = weight.unflatten(1, (bound.shape[1], -1))
    bound = bound.to(weight.dtype)
    return groups.clamp(-bound, bound).flatten(1)
