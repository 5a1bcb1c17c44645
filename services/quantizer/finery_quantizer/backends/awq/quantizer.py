"""AWQ over a whole model, one decoder layer at a time."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from finery_quantizer.backends.awq import clip, scales
from finery_quantizer.backends.awq.capture import LayerInputs, call, first_layer_inputs, run_layer
from finery_quantizer.backends.awq.folding import fold
from finery_quantizer.backends.awq.mapping import ModelMapping, ScaleGroup, kept_modules, load_mapping, scale_groups
from finery_quantizer.backends.awq.packing import PackedWeight, pack
from finery_quantizer.backends.awq.rounding import decode, encode, fit_grid
from finery_quantizer.backends.checkpoint.fingerprint import fingerprint

_GRAM_FROM = 4
"""From how many tokens a channel on the Gram matrix is cheaper than a coarse search and its finalists."""


@dataclass(frozen=True, slots=True)
class AwqOptions:
    """How to search: weights per group, dtype of storage, device and dtype of arithmetic, cost of the scale search.

    `coarse_tokens` rank all candidates, the best `finalists` are decided on all tokens, `chunk_tokens` at a time.
    """

    group_size: int
    storage: torch.dtype
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    compute: torch.dtype = torch.float32
    coarse_tokens: int = 256
    finalists: int = 3
    chunk_tokens: int = 4096


@dataclass(frozen=True, slots=True)
class QuantizedLayer:
    """One finished layer: tensors by their names in the checkpoint.

    `packed` are its quantized linears, `kept` its other tensors (norms and biases with the scales folded in), and
    `fingerprints` say what must be found when both are read back: for a linear, under its weight's name, that of the
    weight after int4, computed without the packing.
    """

    index: int
    count: int
    packed: Mapping[str, PackedWeight]
    kept: Mapping[str, Tensor]
    fingerprints: Mapping[str, str]


class AwqQuantizer:
    """Quantizes the linears of a causal language model's decoder layers."""

    def __init__(self, options: AwqOptions) -> None:
        self._options = options

    def layers(self, model: nn.Module, architecture: str, blocks: Tensor) -> Iterator[QuantizedLayer]:
        """Yields the layers of `model` in order, each quantized on what token `blocks` [blocks, length] make of it.

        The model is used up: a layer's weights are gone once the next one is asked for.
        """
        options = self._options
        model.requires_grad_(False)
        mapping = load_mapping(architecture)
        layers = mapping.get_model_layers(model)
        prefixes = {id(module): name for name, module in model.named_modules()}
        inputs = first_layer_inputs(model, layers[0], blocks, options.compute, options.device)
        prefix_of_blocks = blocks[: max(1, options.coarse_tokens // blocks.shape[1]), : options.coarse_tokens]
        coarse = first_layer_inputs(model, layers[0], prefix_of_blocks, options.compute, options.device)
        for index, layer in enumerate(layers):
            layer.to(options.device, options.compute)
            linears = quantizable(layer, kept_modules(mapping))
            output, features = run_layer(layer, inputs, linears)
            self._quantize_layer(mapping, layer, linears, features, inputs, coarse)
            prefix = prefixes[id(layer)]
            yield self._collect(index, len(layers), prefix, layer, linears)
            layer.to("meta")
            inputs = LayerInputs(output, inputs.kwargs)

    def _quantize_layer(
        self,
        mapping: ModelMapping,
        layer: nn.Module,
        linears: Mapping[str, nn.Linear],
        features: dict[str, Tensor],
        inputs: LayerInputs,
        coarse: LayerInputs,
    ) -> None:
        """Scales and clips the weights of `layer` in place."""
        groups = scale_groups(mapping, layer, features, inputs.kwargs)
        found = [self._search(group, linears, features, inputs, coarse) for group in groups]
        for group, scale in zip(groups, found, strict=True):
            fold(group.producer, [linears[name] for name in group.linears], scale)
            scaled = features[group.linears[0]] / scale
            features.update(dict.fromkeys(group.linears, scaled))
        for name, linear in linears.items():
            if clip.is_clipped(name):
                grams = clip.group_grams(features[name].flatten(0, -2), self._options.group_size)
                bound = clip.search_clip(linear.weight, grams, self._options.group_size)
                linear.weight.copy_(clip.clip(linear.weight, bound))

    def _search(
        self,
        group: ScaleGroup,
        linears: Mapping[str, nn.Linear],
        features: Mapping[str, Tensor],
        inputs: LayerInputs,
        coarse: LayerInputs,
    ) -> Tensor:
        size = self._options.group_size
        feature = features[group.linears[0]]
        weights = [linears[name].weight for name in group.linears]
        tokens = feature.flatten(0, -2)
        candidates = scales.candidate_scales(tokens.abs().float().mean(0), weights, size)
        if group.inspected is None and len(tokens) > _GRAM_FROM * tokens.shape[1]:
            return candidates[int(scales.gram_errors(candidates, weights[0], scales.gram(tokens), size).argmin())]
        objective = partial(self._objective, group, linears)
        rows, length = coarse.hidden.shape[:2]
        first = objective(feature[:rows, :length], coarse.kwargs if group.kwargs else {})
        step = max(1, self._options.chunk_tokens // feature.shape[1])
        every = [objective(part, group.kwargs) for part in feature.split(step)]
        cheap = first if rows * length < len(tokens) else None
        return candidates[scales.search_by_output(candidates, weights, size, every, cheap, self._options.finalists)]

    @staticmethod
    def _objective(
        group: ScaleGroup, linears: Mapping[str, nn.Linear], hidden: Tensor, kwargs: Mapping[str, Any]
    ) -> scales.Objective:
        """The output of what `group` is judged by, on `hidden`, as a function of its linears' weights."""
        module = group.inspected or linears[group.linears[0]]
        names = {id(child): name for name, child in module.named_modules()}
        parameters = [f"{names[id(linears[name])]}.weight".lstrip(".") for name in group.linears]
        return lambda weights: call(module, hidden, kwargs, dict(zip(parameters, weights, strict=True)))

    def _collect(
        self, index: int, count: int, prefix: str, layer: nn.Module, linears: Mapping[str, nn.Linear]
    ) -> QuantizedLayer:
        storage, size = self._options.storage, self._options.group_size
        packed: dict[str, PackedWeight] = {}
        fingerprints: dict[str, str] = {}
        for name, linear in linears.items():
            grid = fit_grid(linear.weight, size, storage)
            packed[f"{prefix}.{name}"] = pack(linear.weight, grid, storage).cpu()
            fingerprints[f"{prefix}.{name}.weight"] = fingerprint(decode(encode(linear.weight, grid), grid))
        kept = {
            f"{prefix}.{name}": tensor.to("cpu", storage)
            for name, tensor in layer.state_dict().items()
            if name.removesuffix(".weight") not in linears
        }
        fingerprints |= {name: fingerprint(tensor) for name, tensor in kept.items()}
        return QuantizedLayer(index, count, packed, kept, fingerprints)


def quantizable(layer: nn.Module, kept: tuple[str, ...]) -> dict[str, nn.Linear]:
    """The linears of a decoder layer by name, less those whose name holds a part listed in `kept`."""
    return {
        name: module
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear) and not any(part in name for part in kept)
    }
