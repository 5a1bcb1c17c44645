"""A PEFT adapter directory as the updates that it makes to its base model's tensors."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from finery_quantizer.backends.checkpoint.shards import read_tensors
from finery_shared.errors import FineryError, Reason

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_NAME = re.compile(r"^(?P<module>.+)\.lora_(?P<part>[AB]|magnitude_vector)(\.weight)?$")


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
        """The updated weight, in fp32."""
        original = weight.float().t() if self.transposed else weight.float()
        updated = original + (self.b.float() @ self.a.float()) * self.scale
        if self.magnitude is not None:
            updated *= (self.magnitude.float() / updated.norm(dim=1))[:, None]
        return updated.t() if self.transposed else updated


def read_adapter(directory: Path) -> dict[str, LoraUpdate]:
    """The updates of an adapter by the base model's tensor names.

    Raises FILE_MISSING, UNSUPPORTED naming what LoRA and its kin do not have, MODEL_INVALID for an incomplete adapter,
    and GATE_FAILED for one that changes nothing.
    """
    for name in (CONFIG, WEIGHTS):
        if not (directory / name).is_file():
            raise FineryError(Reason.FILE_MISSING, f"{directory} has no {name}: pass an adapter's directory.")
    config = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
    _check_kind(directory, config)
    sides: dict[str, dict[str, Tensor]] = {}
    foreign = []
    for name, tensor in read_tensors(directory / WEIGHTS):
        match = _NAME.match(name.removeprefix(_PREFIX))
        if match is None:
            foreign.append(name)
        else:
            sides.setdefault(match["module"], {})[match["part"]] = tensor
    if foreign:
        raise _unsupported(directory, f"tensors beside LoRA's own ({', '.join(sorted(foreign)[:5])})")
    wanted = {"A", "B", "magnitude_vector"} if config.get("use_dora") else {"A", "B"}
    incomplete = sorted(module for module, found in sides.items() if set(found) != wanted)
    if incomplete or not sides:
        problem = (
            f"lacks parts, or has too many, for {', '.join(incomplete[:5])}" if incomplete else "holds no LoRA tensors"
        )
        raise FineryError(Reason.MODEL_INVALID, f"{directory}/{WEIGHTS} {problem}: train the adapter again.")
    updates = {f"{module}.weight": _update(config, module, parts) for module, parts in sides.items()}
    if not any(update.a.any() and update.b.any() for update in updates.values()):
        message = f"{directory}: the adapter is all zeros, so merging would change nothing. Train it again."
        raise FineryError(Reason.GATE_FAILED, message, gate="adapter")
    return updates


def check_fits(updates: Mapping[str, LoraUpdate], shapes: Mapping[str, tuple[int, ...]], base: Path) -> None:
    """Raise MODEL_INVALID, with names and shapes, unless every update has its tensor in the base model."""
    wrong = [
        f"{name}: the adapter's is {list(update.shape)}, the model's {_shape(shapes.get(name))}"
        for name, update in sorted(updates.items())
        if shapes.get(name) != update.shape
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
    rank = parts["A"].shape[0]
    alpha = _for_module(config.get("alpha_pattern") or {}, module, config.get("lora_alpha", rank))
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    transposed = bool(config.get("fan_in_fan_out"))
    return LoraUpdate(parts["A"], parts["B"], scale, transposed, parts.get("magnitude_vector"))


def _for_module(patterns: Mapping[str, float], module: str, default: float) -> float:
    """PEFT's rule: the first pattern that matches the end of the module's name, at a dot."""
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), default)


def _check_kind(directory: Path, config: Mapping[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise _unsupported(directory, f"peft_type {config.get('peft_type')!r}")
    for key in ("modules_to_save", "trainable_token_indices", "lora_bias"):
        if config.get(key):
            raise _unsupported(directory, key)
    if config.get("bias", "none") != "none":
        raise _unsupported(directory, f"bias {config['bias']!r}")


def _unsupported(directory: Path, what: str) -> FineryError:
    message = f"{directory}: an adapter with {what} can't be merged; LoRA, rsLoRA and DoRA adapters can."
    return FineryError(Reason.UNSUPPORTED, message)
