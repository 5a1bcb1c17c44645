"""A PEFT adapter directory as the updates that it makes to its base model's tensors."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finery_quantizer.backends.checkpoint.shards import read_tensors
from finery_shared.errors import FineryError, Reason

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_NAME = re.compile(r"^(?P<module>.+)\.lora_(?P<part>A|B|embedding_A|embedding_B|magnitude_vector)(\.weight)?$")
_BASE_LAYER = ".base_layer."
_VALUES_AT_ONCE = 2**17
"""Values of a weight that are summed at a time: in fp32 they stay in a core's cache."""


@dataclass(frozen=True, slots=True)
class LoraUpdate:
    """What an adapter makes of one weight [out, in]: W + scale · B · A, with A [r, in] and B [out, r].

    DoRA (arXiv 2402.09353) then gives every row of the sum the length that ``magnitude`` [out] says.
    """

    a: Tensor
    b: Tensor
    scale: float
    transposed: bool = False
    magnitude: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the weight that it fits."""
        shape = (self.b.shape[0], self.a.shape[1])
        return shape[::-1] if self.transposed else shape

    def apply(self, weight: Tensor) -> Tensor:
        """The updated weight, summed in fp32 and rounded once to the dtype of `weight`."""
        result = torch.empty_like(weight)
        rows_in, rows_out = (weight.t(), result.t()) if self.transposed else (weight, result)
        a, b = self.a.float(), self.b.float()
        step = max(1, _VALUES_AT_ONCE // rows_in.shape[1])
        for start in range(0, len(rows_in), step):
            part = slice(start, start + step)
            updated = rows_in[part].to(torch.float32, copy=True).addmm_(b[part], a, alpha=self.scale)
            if self.magnitude is not None:
                updated *= (self.magnitude[part].float() / updated.norm(dim=1))[:, None]
            rows_out[part] = updated
        return result


@dataclass(frozen=True, slots=True)
class Adapter:
    """What an adapter changes, by the base model's tensor names.

    `replaced` are tensors that it holds whole (modules_to_save, biases); an update comes on top of these.
    `keeps_tied`: its input embeddings are its output embeddings, whatever it changes.
    """

    updates: Mapping[str, LoraUpdate]
    replaced: Mapping[str, Tensor]
    keeps_tied: bool = False

    @property
    def changed(self) -> frozenset[str]:
        """Names of all that it changes."""
        return frozenset(self.updates) | frozenset(self.replaced)

    def apply(self, name: str, tensor: Tensor) -> Tensor:
        """`tensor`, the base model's of this name, as the adapter makes it, in its dtype."""
        tensor = self.replaced.get(name, tensor).to(tensor.dtype)
        return self.updates[name].apply(tensor) if name in self.updates else tensor


def read_adapter(directory: Path) -> Adapter:
    """The changes that an adapter makes.

    Raises FILE_MISSING, UNSUPPORTED naming what LoRA and its kin do not have, MODEL_INVALID for an incomplete adapter,
    and GATE_FAILED for one that changes nothing.
    """
    for name in (CONFIG, WEIGHTS):
        if not (directory / name).is_file():
            raise FineryError(Reason.FILE_MISSING, f"{directory} has no {name}: pass an adapter's directory.")
    config = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
    _check_kind(directory, config)
    sides: dict[str, dict[str, Tensor]] = {}
    replaced: dict[str, Tensor] = {}
    for name, tensor in read_tensors(directory / WEIGHTS):
        inner = name.removeprefix(_PREFIX)
        match = _NAME.match(inner)
        if match is not None:
            sides.setdefault(match["module"], {})[match["part"]] = tensor
        elif "lora_" in inner:
            raise _unsupported(directory, f"tensors beside LoRA's own ({inner})")
        else:
            replaced[inner.replace(_BASE_LAYER, ".")] = tensor
    wanted = {"A", "B", "magnitude_vector"} if config.get("use_dora") else {"A", "B"}
    embedded = {f"embedding_{part}" for part in ("A", "B")}
    incomplete = sorted(module for module, found in sides.items() if set(found) not in (wanted, embedded))
    if incomplete or not (sides or replaced):
        problem = (
            f"lacks parts, or has too many, for {', '.join(incomplete[:5])}" if incomplete else "holds no LoRA tensors"
        )
        raise FineryError(Reason.MODEL_INVALID, f"{directory}/{WEIGHTS} {problem}: train the adapter again.")
    updates = {f"{module}.weight": _update(config, module, parts) for module, parts in sides.items()}
    if not replaced and not any(update.a.any() and update.b.any() for update in updates.values()):
        message = f"{directory}: the adapter is all zeros, so merging would change nothing. Train it again."
        raise FineryError(Reason.GATE_FAILED, message, gate="adapter")
    return Adapter(updates, replaced, bool(config.get("ensure_weight_tying")))


def check_fits(adapter: Adapter, shapes: Mapping[str, tuple[int, ...]], base: Path) -> None:
    """Raise MODEL_INVALID, with names and shapes, unless every change has its tensor in the base model."""
    changes = {name: tuple(tensor.shape) for name, tensor in adapter.replaced.items()}
    changes |= {name: update.shape for name, update in adapter.updates.items()}
    wrong = [
        f"{name}: the adapter's is {list(shape)}, the model's {_shape(shapes.get(name))}"
        for name, shape in sorted(changes.items())
        if shapes.get(name) != shape
    ]
    if wrong:
        more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise FineryError(
            Reason.MODEL_INVALID,
            f"The adapter was trained on another model than {base} ({'; '.join(wrong[:5])}{more}). "
            "Pass the right base with --model_id_or_path.",
        )


def _shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else str(list(shape))


def _update(config: Mapping[str, Any], module: str, parts: Mapping[str, Tensor]) -> LoraUpdate:
    # Of embeddings [vocabulary, hidden], PEFT keeps the factors of the transposed change.
    a = parts["A"] if "A" in parts else parts["embedding_B"].t()
    b = parts["B"] if "B" in parts else parts["embedding_A"].t()
    rank = a.shape[0]
    alpha = _for_module(config.get("alpha_pattern") or {}, module, config.get("lora_alpha", rank))
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    transposed = bool(config.get("fan_in_fan_out")) and "A" in parts
    return LoraUpdate(a, b, scale, transposed, parts.get("magnitude_vector"))


def _for_module(patterns: Mapping[str, float], module: str, default: float) -> float:
    """PEFT's rule: the first pattern that matches the end of the module's name, at a dot."""
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), default)


def _check_kind(directory: Path, config: Mapping[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise _unsupported(directory, f"peft_type {config.get('peft_type')!r}")
    for key in ("trainable_token_indices", "lora_bias"):
        if config.get(key):
            raise _unsupported(directory, key)


def _unsupported(directory: Path, what: str) -> FineryError:
    message = f"{directory}: an adapter with {what} can't be merged; LoRA, rsLoRA and DoRA adapters can."
    return FineryError(Reason.UNSUPPORTED, message)
