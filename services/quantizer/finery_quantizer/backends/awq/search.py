"""The search over one decoder layer: its calibration inputs pass twice, a chunk at a time, and are never kept."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from finery_quantizer.backends.awq.mapping import ScaleGroup
from finery_quantizer.backends.awq.scales import best, candidate_scales, rounded
from finery_quantizer.backends.awq.statistics import InputStatistics
from finery_quantizer.backends.checkpoint.capture import LayerInputs, call, watching


class LayerSearch:
    """Finds the scales of a layer's groups. Weights are only read, until the caller folds what was found.

    The first pass gathers statistics of inputs, the second measures candidates by the output error of what each group
    is judged by. A few tokens rank all candidates of AutoAWQ's grid; only the finalists are measured on every token.
    """

    def __init__(
        self, layer: nn.Module, linears: Mapping[str, nn.Linear], groups: Sequence[ScaleGroup], group_size: int
    ) -> None:
        self._layer = layer
        self._linears = linears
        self._groups = groups
        self._group_size = group_size
        self._leaders = {name: group.linears[0] for group in groups for name in group.linears}
        """Linears of one input share its statistics, under the name of the first."""
        self._statistics: dict[str, InputStatistics] = {}
        self._first: dict[str, Tensor] = {}

    def observe(self, chunks: Sequence[Tensor], inputs: LayerInputs, coarse: LayerInputs) -> None:
        """The first pass, over `chunks` of `inputs` of which `coarse` are the beginning."""
        blocks, length = coarse.hidden.shape[:2]
        watched = {name: linear for name, linear in self._linears.items() if self._leader(name) == name}
        self._statistics = {name: InputStatistics(inputs.hidden.shape[:2].numel()) for name in watched}

        def see(name: str, feature: Tensor) -> None:
            self._statistics[name].add(feature)
            if name in self._leaders and name not in self._first:
                self._first[name] = feature[:blocks, :length].clone()

        with watching(watched, see):
            for part in chunks:
                call(self._layer, part, inputs.kwargs)

    def decide(
        self, chunks: Sequence[Tensor], inputs: LayerInputs, coarse: LayerInputs, finalists: int
    ) -> list[Tensor]:
        """The second pass; the scales [in] of each group. The layer's outputs take the place of its inputs."""
        candidates = [self._candidates(group) for group in self._groups]
        few = coarse.hidden.shape[:2] != inputs.hidden.shape[:2]
        ranked = []
        for group, scales in zip(self._groups, candidates, strict=True):
            kwargs = coarse.kwargs if group.kwargs else {}
            errors = self._errors(group, self._first[group.linears[0]], kwargs, self._rounded(group, scales))
            ranked.append(best(errors, finalists if few else 1))
        # With few tokens in all, the ranking has seen every one of them and there is nothing left to decide.
        runners = {
            group.linears[0]: (group, list(self._rounded(group, [scales[i] for i in order])))
            for group, scales, order in zip(self._groups, candidates, ranked, strict=True)
            if few
        }
        totals: dict[str, Tensor] = {}
        for part in chunks:
            features: dict[str, Tensor] = {}
            with watching({name: self._linears[name] for name in runners}, features.__setitem__):
                part.copy_(call(self._layer, part, inputs.kwargs))
            for name, feature in features.items():
                group, changed = runners[name]
                errors = self._errors(group, feature, group.kwargs, changed)
                totals[name] = totals[name] + errors if name in totals else errors
        winners = {name: best(total, 1)[0] for name, total in totals.items()}
        return [
            scales[order[winners.get(group.linears[0], 0)]]
            for group, scales, order in zip(self._groups, candidates, ranked, strict=True)
        ]

    def sample(self, linear: str) -> Tensor:
        """A sample of the inputs of a linear, fp32 [about 512, in]."""
        return self._statistics[self._leader(linear)].sample

    def _leader(self, linear: str) -> str:
        return self._leaders.get(linear, linear)

    def _candidates(self, group: ScaleGroup) -> list[Tensor]:
        mean = self._statistics[group.linears[0]].mean
        return candidate_scales(mean, self._weights(group), self._group_size)

    def _rounded(self, group: ScaleGroup, scales: Sequence[Tensor]) -> Iterator[list[Tensor]]:
        return rounded(self._weights(group), scales, self._group_size)

    def _weights(self, group: ScaleGroup) -> list[Tensor]:
        return [self._linears[name].weight for name in group.linears]

    def _errors(
        self,
        group: ScaleGroup,
        inputs: Tensor,
        kwargs: Mapping[str, Any],
        changed: Iterator[list[Tensor]] | Sequence[list[Tensor]],
    ) -> Tensor:
        """The squared output error on `inputs` [blocks, length, in] under each of the `changed` weights."""
        if group.inspected is None:
            # Of one linear alone: the product with the change, which nothing is rounded off of.
            (weight,) = self._weights(group)
            changes = (nn.functional.linear(inputs, other - weight) for (other,) in changed)
            return torch.stack([change.float().square().sum() for change in changes])
        names = {id(child): name for name, child in group.inspected.named_modules()}
        parameters = [f"{names[id(self._linears[name])]}.weight" for name in group.linears]
        right = call(group.inspected, inputs, kwargs)
        outputs = (
            call(group.inspected, inputs, kwargs, dict(zip(parameters, weights, strict=True))) for weights in changed
        )
        return torch.stack([(output - right).float().square().sum() for output in outputs])
