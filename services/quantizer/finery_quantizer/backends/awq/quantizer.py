"""AWQ over a whole model, one decoder layer at a time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from finery_quantizer.backends.awq import clip
from finery_quantizer.backends.awq.folding import fold
from finery_quantizer.backends.awq.mapping import ModelMapping, kept_modules, load_mapping, scale_groups
from finery_quantizer.backends.awq.options import AwqOptions
from finery_quantizer.backends.awq.packing import PackedWeight, pack, unpack
from finery_quantizer.backends.awq.rounding import fit_grid, round_trip
from finery_quantizer.backends.awq.search import LayerSearch
from finery_quantizer.backends.checkpoint.capture import LayerInputs, call, first_layer_inputs
from finery_quantizer.backends.checkpoint.streamed import StreamedModel
from finery_shared.errors import FineryError, Reason


@dataclass(frozen=True, slots=True)
class QuantizedLayer:
    """One finished layer: tensors by their names in the checkpoint, on the CPU.

    `packed` are its quantized linears, `kept` its other tensors: norms and biases with the scales folded in.
    """

    index: int
    packed: Mapping[str, PackedWeight]
    kept: Mapping[str, Tensor]

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by the names that they are saved under."""
        packed = {f"{name}.{part}": t for name, weight in self.packed.items() for part, t in weight.tensors().items()}
        return packed | dict(self.kept)


class AwqQuantizer:
    """Quantizes the linears of a causal language model's decoder layers."""

    def __init__(self, options: AwqOptions) -> None:
        self._options = options

    def layers(self, model: StreamedModel, blocks: Tensor, done: int = 0) -> Iterator[QuantizedLayer]:
        """Yields the layers of `model` in order, each quantized on what token `blocks` [blocks, length] make of it.

        The first `done` are finished already: tokens only pass through them.
        """
        options = self._options
        mapping = load_mapping(model.model.config.model_type)
        inputs = first_layer_inputs(model.model, model.layers[0], blocks, model.dtype, model.device)
        few = blocks[: max(1, options.coarse_tokens // blocks.shape[1]), : options.coarse_tokens]
        coarse = first_layer_inputs(model.model, model.layers[0], few, model.dtype, model.device)
        for index, prefix in enumerate(model.names):
            layer = model.layer(index)
            if index < done:
                for part in self._chunks(inputs):
                    part.copy_(call(layer, part, inputs.kwargs))
            else:
                yield self._quantized(index, prefix, mapping, layer, inputs, coarse)
            model.release(index)

    def _quantized(
        self,
        index: int,
        prefix: str,
        mapping: ModelMapping,
        layer: nn.Module,
        inputs: LayerInputs,
        coarse: LayerInputs,
    ) -> QuantizedLayer:
        options = self._options
        linears = quantizable(layer, kept_modules(mapping))
        _check_dense(linears)
        groups = scale_groups(mapping, layer, linears, inputs.kwargs)
        search = LayerSearch(layer, linears, groups, options.group_size)
        chunks = self._chunks(inputs)
        search.observe(chunks, inputs, coarse)
        scales = search.decide(chunks, inputs, coarse, options.finalists)
        layer.float()
        scaled: dict[str, Tensor] = {}
        for group, scale in zip(groups, scales, strict=True):
            fold(group.producer, [linears[name] for name in group.linears], scale)
            scaled |= dict.fromkeys(group.linears, scale)
        packed: dict[str, PackedWeight] = {}
        for name, linear in linears.items():
            weight = linear.weight
            if clip.is_clipped(name):
                sample = search.sample(name)
                grams = clip.group_grams(sample / scaled[name] if name in scaled else sample, options.group_size)
                weight = clip.clip(weight, clip.search_clip(weight, grams, options.group_size))
            packed[f"{prefix}.{name}"] = self._packed(name, weight)
        kept = {
            f"{prefix}.{name}": tensor.to("cpu", options.storage)
            for name, tensor in layer.state_dict().items()
            if name.removesuffix(".weight") not in linears
        }
        return QuantizedLayer(index, packed, kept)

    def _packed(self, name: str, weight: Tensor) -> PackedWeight:
        size, storage = self._options.group_size, self._options.storage
        grid = fit_grid(weight, size, storage)
        packed = pack(weight, grid, storage)
        if not torch.equal(unpack(packed), round_trip(weight, size, storage)):
            raise RuntimeError(f"{name}: packed int4 values don't unpack to the rounded weight")
        return packed.to(torch.device("cpu"))

    def _chunks(self, inputs: LayerInputs) -> Sequence[Tensor]:
        """Hidden states by groups of blocks; views, so that a layer's output can take its input's place."""
        parts: Sequence[Tensor] = inputs.hidden.split(max(1, self._options.chunk_tokens // inputs.hidden.shape[1]))
        return parts


def quantizable(layer: nn.Module, kept: tuple[str, ...]) -> dict[str, nn.Linear]:
    """The linears of a decoder layer by name, less those whose name holds a part listed in `kept`."""
    return {
        name: module
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear) and not any(part in name for part in kept)
    }


def _check_dense(linears: Mapping[str, nn.Linear]) -> None:
    """Raise UNSUPPORTED for a mixture of experts: an expert that no calibration token reaches has no scales."""
    if any(".experts." in name for name in linears):
        message = "A mixture of experts can't be quantized to AWQ yet: serve this model unquantized."
        raise FineryError(Reason.UNSUPPORTED, message)
