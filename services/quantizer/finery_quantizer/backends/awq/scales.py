"""Scale search: which per-channel scales, moved from the weights into what feeds them, make int4 hurt least."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from finery_quantizer.backends.awq.rounding import round_trip

RATIOS = 20

Objective = Callable[[Sequence[Tensor]], Tensor]
"""A module's output on fixed inputs as a function of the weights of its linears."""


def candidate_scales(input_mean: Tensor, weights: Sequence[Tensor], group: int) -> list[Tensor]:
    """AutoAWQ's grid of scales [in], from the mean |input| [in] and the weights [out, in] that share the input."""
    groups = torch.cat(list(weights)).float().abs().unflatten(1, (-1, group))
    weight_mean = (groups / (groups.amax(-1, keepdim=True) + 1e-6)).flatten(1).mean(0)
    found = []
    for step in range(RATIOS):
        ratio = step / RATIOS
        scale = (input_mean.float().pow(ratio) / (weight_mean.pow(1 - ratio) + 1e-4)).clamp(min=1e-4)
        scale = scale / (scale.max() * scale.min()).sqrt()
        found.append(torch.nan_to_num(scale, nan=1.0, posinf=1.0, neginf=1.0))
    return found


def scaled_round_trip(weight: Tensor, scale: Tensor, group: int) -> Tensor:
    """`weight` as the model would see it after int4 with `scale` folded in and its inverse applied before."""
    return round_trip(weight * scale, group).div_(scale)


def gram(inputs: Tensor) -> Tensor:
    """Inputs x [tokens, in] -> xᵀx, fp32 [in, in]."""
    x = inputs.float()
    return x.t() @ x


def gram_errors(scales: Sequence[Tensor], weight: Tensor, inputs_gram: Tensor, group: int) -> Tensor:
    """The squared output error of one linear for each scale: tr(d H dᵀ) for the change d of its weight.

    As exact as multiplying by every token, and cheaper once there are several times more tokens than channels.
    """
    errors = []
    for scale in scales:
        change = weight - scaled_round_trip(weight, scale, group)
        errors.append(((change @ inputs_gram) * change).sum())
    return torch.stack(errors)


def search_by_output(
    scales: Sequence[Tensor],
    weights: Sequence[Tensor],
    group: int,
    objectives: Sequence[Objective],
    coarse: Objective | None = None,
    finalists: int = 4,
) -> int:
    """Index of the scale with the least output error of a module, summed over `objectives` (chunks of the inputs).

    With `coarse`, a cheap objective on few tokens, only its best `finalists` are tried on all. Weights are only read.
    """
    rounded = {i: [scaled_round_trip(w, scale, group) for w in weights] for i, scale in enumerate(scales)}
    if coarse is not None:
        ranking = _errors(coarse, weights, rounded)
        rounded = {i: rounded[i] for i in sorted(ranking, key=lambda i: ranking[i])[:finalists]}
    totals = dict.fromkeys(rounded, 0.0)
    for objective in objectives:
        for i, error in _errors(objective, weights, rounded).items():
            totals[i] += error
    return min(totals, key=lambda i: totals[i])


def _errors(
    objective: Objective, weights: Sequence[Tensor], rounded: Mapping[int, Sequence[Tensor]]
) -> dict[int, float]:
    right = objective(weights)
    return {i: float((objective(changed) - right).float().square().sum()) for i, changed in rounded.items()}
