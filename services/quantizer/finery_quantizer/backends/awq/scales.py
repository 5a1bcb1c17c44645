"""Scale search: which per-channel scales, moved from the weights into what feeds them, make int4 hurt least."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from finery_quantizer.backends.awq.rounding import round_trip

RATIOS = 20


def candidate_scales(input_mean: Tensor, weights: Sequence[Tensor], group: int) -> list[Tensor]:
    """AutoAWQ's grid of scales [in], from the mean |input| [in] and the weights [out, in] that share the input."""
    total, rows = torch.zeros_like(input_mean, dtype=torch.float32), 0
    for weight in weights:
        groups = weight.float().abs().unflatten(1, (-1, group))
        total += (groups / (groups.amax(-1, keepdim=True) + 1e-6)).flatten(1).sum(0)
        rows += len(weight)
    weight_mean = total / rows
    found = []
    for step in range(RATIOS):
        ratio = step / RATIOS
        scale = (input_mean.float().pow(ratio) / (weight_mean.pow(1 - ratio) + 1e-4)).clamp(min=1e-4)
        scale = scale / (scale.max() * scale.min()).sqrt()
        found.append(torch.nan_to_num(scale, nan=1.0, posinf=1.0, neginf=1.0))
    return found


def scaled_round_trip(weight: Tensor, scale: Tensor, group: int) -> Tensor:
    """`weight` [out, in] as the model would see it after int4 with `scale` [in] folded in and undone, in its dtype."""
    return round_trip(weight * scale, group).div_(scale).to(weight.dtype)


def rounded(weights: Sequence[Tensor], scales: Sequence[Tensor], group: int) -> Iterator[list[Tensor]]:
    """`weights` after int4 under each of `scales`, one after the other."""
    for scale in scales:
        yield [scaled_round_trip(weight, scale, group) for weight in weights]


def best(errors: Tensor, count: int) -> list[int]:
    """Indices of the `count` smallest `errors`, ascending by error; NaN counts as infinite."""
    order = torch.nan_to_num(errors, nan=torch.inf).argsort(stable=True)
    return [int(index) for index in order[:count]]
