"""What flows through a model: the first layer's inputs, and the inputs of every linear of a layer."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


class _Reached(Exception):
    """Ends a forward pass once the first layer's inputs are known."""


@dataclass(frozen=True, slots=True)
class LayerInputs:
    """What every decoder layer is called with: hidden states [blocks, length, hidden] and arguments shared by all."""

    hidden: Tensor
    kwargs: dict[str, Any]


def first_layer_inputs(
    model: PreTrainedModel, layer: nn.Module, blocks: Tensor, dtype: torch.dtype, device: torch.device
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
        # In `dtype` from the first step: a model rounds its rotary angles to that of its embeddings.
        model(inputs_embeds=model.get_input_embeddings()(blocks).to(dtype), use_cache=False)
    except _Reached:
        pass
    finally:
        handle.remove()
    return found[0]


@contextmanager
def watching(linears: Mapping[str, nn.Module], see: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Within it, `see` is called with the name and the input [blocks, length, in] of each linear that runs."""

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _module, args: see(name, args[0])

    handles = [linear.register_forward_pre_hook(hook(name)) for name, linear in linears.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


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
