"""Architectures that every stage handles: training, merge, AWQ, vLLM."""

from __future__ import annotations

from dataclasses import dataclass, field

from finery_shared.models.spec import TargetModules


@dataclass(frozen=True)
class Architecture:
    """A decoder architecture: its name in config.json, the family it is told as, and its linear layers."""

    name: str
    family: str
    targets: TargetModules = field(default_factory=TargetModules)


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture("LlamaForCausalLM", "llama"),
    Architecture("MistralForCausalLM", "mistral"),
    Architecture("Qwen2ForCausalLM", "qwen2"),
    Architecture("Qwen3ForCausalLM", "qwen3"),
    Architecture("GemmaForCausalLM", "gemma"),
    Architecture("Gemma2ForCausalLM", "gemma2"),
    Architecture(
        "Phi3ForCausalLM",
        "phi3",
        TargetModules(all=("qkv_proj", "o_proj", "gate_up_proj", "down_proj"), default=("qkv_proj",)),
    ),
)


def architecture_named(name: str) -> Architecture | None:
    """The architecture of that name in config.json's ``architectures``; None if Finery does not know it."""
    return next((known for known in ARCHITECTURES if known.name == name), None)
