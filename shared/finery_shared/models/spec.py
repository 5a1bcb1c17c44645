"""What Finery knows of a model before it opens a file: frozen data, no behaviour beyond look-ups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from finery_shared.errors import FineryError, Reason
from finery_shared.models.shape import ModelShape

LLAMA_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Every linear layer of a decoder block in Llama, Mistral, Qwen2, Qwen3 and Gemma."""

LLAMA_ATTENTION = ("q_proj", "k_proj", "v_proj")


@dataclass(frozen=True)
class TargetModules:
    """The linear layers that LoRA adapts: ``ALL`` and ``DEFAULT`` of ``--lora_target_modules``."""

    all: tuple[str, ...] = LLAMA_LINEARS
    default: tuple[str, ...] = LLAMA_ATTENTION

    def select(self, names: Sequence[str]) -> tuple[str, ...]:
        """Turn the user's list (``ALL``, ``DEFAULT`` or layer names, mixed) into layer names, in order, once each.

        Raises INVALID_ARGUMENT for a layer that this architecture does not have.
        """
        chosen: list[str] = []
        for name in names or ("ALL",):
            known = {"ALL": self.all, "DEFAULT": self.default}.get(name.upper())
            if known is None and name not in self.all:
                raise FineryError(
                    Reason.INVALID_ARGUMENT,
                    f"lora_target_modules: this model has no linear layer {name!r}; "
                    f"use ALL, DEFAULT or some of: {', '.join(self.all)}.",
                    field="lora_target_modules",
                )
            chosen.extend(known or (name,))
        return tuple(dict.fromkeys(chosen))


@dataclass(frozen=True)
class Recipe:
    """Training defaults that suit one model better than the trainer's own; None leaves the trainer's."""

    learning_rate: float | None = None
    num_train_epochs: float | None = None
    batch_size: int | None = None
    gradient_accumulation_steps: int | None = None
    max_length: int | None = None
    lora_rank: int | None = None
    lora_alpha: int | None = None
    lora_dropout: float | None = None
    warmup_ratio: float | None = None
    weight_decay: float | None = None
    lr_scheduler_type: str | None = None


@dataclass(frozen=True)
class ModelSpec:
    """One entry of the model registry, or what was read from a model's directory.

    ``identity`` are the names by which the base model knows itself and its maker: what a self-cognition score must
    not find in an answer. ``template`` names an entry of ``finery_shared.templates.families``, ``tool_parser`` one of
    ``finery_shared.templates.tool_parsers``: how the model writes tool calls, None if it makes none. ``hf_id`` and
    ``ms_id`` are None for a model that is known by its directory alone.
    """

    model_type: str
    family: str
    architecture: str
    template: str
    shape: ModelShape
    hf_id: str | None = None
    ms_id: str | None = None
    default_system: str | None = None
    stop_tokens: tuple[str, ...] = ()
    tool_parser: str | None = None
    max_model_len: int = 2048
    quantized: bool = False
    targets: TargetModules = TargetModules()
    recipe: Recipe = Recipe()
    identity: tuple[str, ...] = ()

    @property
    def group_size(self) -> int | None:
        """AWQ's group size: the largest of 128, 64, 32 that divides every linear layer's input; None if none does."""
        return self.shape.group_size
