"""Asymmetric int4 rounding by group of input channels."""

from dataclasses import dataclass

import torch
from torch import Tensor

MAX_CODE = 15


@dataclass(frozen=True, slots=True)
class Grid:
    """The int4 grid of a weight: value = (code - zero) * scale.

    `scale` and `zero` are fp32 [out, groups]; zeros are whole numbers in 0..15.
    """

    scale: Tensor
    zero: Tensor


def fit_grid(weight: Tensor, group: int, storage: torch.dtype = torch.float32) -> Grid:
    """The min-max grid of `weight` [out, in], its scales rounded to `storage`, the dtype they are saved in."""
    groups = weight.float().unflatten(1, (-1, group))
    high, low = groups.amax(-1), groups.amin(-1)
    scale = ((high - low).clamp_(min=1e-5) / MAX_CODE).to(storage).float()
    return Grid(scale, (low / scale).round_().neg_().clamp_(0, MAX_CODE))


def encode(weight: Tensor, grid: Grid) -> Tensor:
    """Codes 0..15 of `weight`, fp32 [out, groups, group]."""
    groups = weight.float().unflatten(1, (grid.scale.shape[1], -1))
    codes = groups.div(grid.scale.unsqueeze(-1)).round_()
    return codes.add_(grid.zero.unsqueeze(-1)).clamp_(0, MAX_CODE)


def decode(codes: Tensor, grid: Grid) -> Tensor:
    """The fp32 weight [out, in] that `codes` [out, groups, group] stand for; overwrites `codes`."""
    return codes.sub_(grid.zero.unsqueeze(-1)).mul_(grid.scale.unsqueeze(-1)).flatten(1)


def round_trip(weight: Tensor, group: int, storage: torch.dtype = torch.float32) -> Tensor:
    """What is left of `weight` [out, in] after int4: plain round-to-nearest, fp32."""
    grid = fit_grid(weight, group, storage)
    return decode(encode(weight, grid), grid)
