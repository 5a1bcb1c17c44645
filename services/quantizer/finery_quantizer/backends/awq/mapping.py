"""AutoAWQ's model mappings: which linears of a decoder layer share an input, and what feeds them."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from finery_shared.errors import FineryError, Reason


@dataclass(frozen=True, slots=True)
class ScaleGroup:
    """Linears of one input whose channels are scaled together.

    `producer` takes the inverse scales; `linears` are names within the layer; `inspected` is the module whose output
    error is measured, None when that is the only linear itself; `kwargs` are what it is called with beside its input.
    """

    producer: nn.Module
    linears: tuple[str, ...]
    inspected: nn.Module | None
    kwargs: Mapping[str, Any]


class ModelMapping(Protocol):
    """The part of AutoAWQ's model classes that is used here."""

    def get_model_layers(self, model: nn.Module) -> Sequence[nn.Module]:
        """The decoder layers in order."""

    def get_layers_for_scaling(
        self, module: nn.Module, input_feat: Mapping[str, Tensor], module_kwargs: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """The groups of one layer as dictionaries."""


def load_mapping(architecture: str) -> Any:
    """AutoAWQ's class for a `model_type` of a config.json; UNSUPPORTED when it has none."""
    with warnings.catch_warnings(record=True):  # AutoAWQ announces its retirement on every import, past any filter
        from awq.models.auto import AWQ_CAUSAL_LM_MODEL_MAP
    if architecture not in AWQ_CAUSAL_LM_MODEL_MAP:
        known = ", ".join(sorted(AWQ_CAUSAL_LM_MODEL_MAP))
        raise FineryError(
            Reason.UNSUPPORTED, f"AWQ does not know the architecture {architecture!r}. It knows: {known}."
        )
    return AWQ_CAUSAL_LM_MODEL_MAP[architecture]


def kept_modules(mapping: Any) -> tuple[str, ...]:
    """Name parts of the linears that AutoAWQ leaves unquantized for this architecture."""
    return tuple(getattr(mapping, "modules_to_not_convert", None) or ())


def scale_groups(
    mapping: ModelMapping, layer: nn.Module, features: Mapping[str, Tensor], kwargs: Mapping[str, Any]
) -> list[ScaleGroup]:
    """The groups of `layer`, in AutoAWQ's order; `features` are the inputs of its linears by name."""
    names = {id(module): name for name, module in layer.named_modules()}
    groups = []
    for entry in mapping.get_layers_for_scaling(layer, features, kwargs):
        inspected = entry.get("module2inspect")
        linears = tuple(names[id(linear)] for linear in entry["layers"])
        alone = inspected is None or (len(linears) == 1 and names[id(inspected)] == linears[0])
        groups.append(ScaleGroup(entry["prev_op"], linears, None if alone else inspected, entry.get("kwargs", {})))
    return groups
