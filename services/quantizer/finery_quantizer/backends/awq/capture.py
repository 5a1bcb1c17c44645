"""What flows through a model: the first layer's inputs, and the inputs of every linear of a layer."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


class _Reached(Exception):
    """Ends a forward pass once the first layer's inputs are known."""


@dataclass(frozen=True, slots=True)
class LayerInputs:
    """What every decoder layer is called with: hidden states [blocks, length, hidden] and arguments shared by all."""

    hidden: Tensor
    kwargs: dict[str, Any]


def first_layer_inputs(
    model: nn.Module, layer: nn.Module, blocks: Tensor, dtype: torch.dtype, device: torch.device
) -> LayerInputs:
    """Runs token `blocks` [blocks, length] up to the model's first `layer`; floats come out in `dtype`, on `device`."""
    found: list[LayerInputs] = []

    def stop(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden, *_ = args or (kwargs["hidden_states"],)
        rest = {name: _cast(value, dtype, device) for name, value in kwargs.items() if name != "hidden_states"}
        found.append(LayerInputs(_cast(hidden, dtype, device), rest))
        raise _Reached

    handle = layer.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        model(blocks, use_cache=False)
    except _Reached:
        pass
    finally:
        handle.remove()
    return found[0]


def run_layer(
    layer: nn.Module, inputs: LayerInputs, linears: Mapping[str, nn.Linear]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The layer's output [blocks, length, hidden] and the inputs of its `linears` by name, [blocks, length, in].

    Linears that share an input share the tensor.
    """
    features: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            features[name] = args[0]

        return hook

    handles = [linear.register_forward_pre_hook(keep(name)) for name, linear in linears.items()]
    try:
        output = call(layer, inputs.hidden, inputs.kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return output, features


def call(
    module: nn.Module, hidden: Tensor, kwargs: Mapping[str, Any], weights: Mapping[str, Tensor] | None = None
) -> Tensor:
    """The first output of `module` on `hidden`, with those of `kwargs` that it takes.

    `weights` stand in for its parameters of those names during this call; the module itself is never changed.
    """
    accepted = inspect.signature(module.forward).parameters
    named = {name: value for name, value in kwargs.items() if name in accepted}
    output = torch.func.functional_call(module, dict(weights or {}), (hidden,), named)
    return output[0] if isinstance(output, tuple) else output


def _cast(value: Any, dtype: torch.dtype, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, dtype) if value.is_floating_point() else value.to(device)
    if isinstance(value, tuple):
        return tuple(_cast(item, dtype, device) for item in value)
    return value
