"""What Finery knows of each family of chat templates. The template itself is always the tokenizer's own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True)
class TemplateFamily:
    """A family of chat templates: how to recognise one, what it adds on its own, and what ends a turn.

    ``marks`` are strings that a Jinja template of this family contains, all of them. ``default_system`` is the system
    prompt that the template puts in when the messages have none; None if it puts in nothing.
    """

    name: str
    marks: tuple[str, ...]
    end_of_turn: str | None
    stop_tokens: tuple[str, ...] = ()
    default_system: str | None = None


FAMILIES: tuple[TemplateFamily, ...] = (
    TemplateFamily(
        "smollm2",
        ("<|im_start|>", "named SmolLM, trained by Hugging Face"),
        "<|im_end|>",
        ("<|im_end|>",),
        "You are a helpful AI assistant named SmolLM, trained by Hugging Face",
    ),
    TemplateFamily(
        "qwen2_5",
        ("<|im_start|>", "You are Qwen, created by Alibaba Cloud"),
        "<|im_end|>",
        ("<|im_end|>", "<|endoftext|>"),
        "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
    ),
    TemplateFamily(
        "qwen2",
        ("<|im_start|>", "You are a helpful assistant."),
        "<|im_end|>",
        ("<|im_end|>", "<|endoftext|>"),
        "You are a helpful assistant.",
    ),
    TemplateFamily(
        "qwen",
        ("<|im_start|>", "You are a helpful assistant"),
        "<|im_end|>",
        ("<|im_end|>", "<|endoftext|>"),
        "You are a helpful assistant",
    ),
    TemplateFamily("chatml", ("<|im_start|>", "<|im_end|>"), "<|im_end|>", ("<|im_end|>",)),
    TemplateFamily("llama3", ("<|start_header_id|>",), "<|eot_id|>", ("<|eot_id|>", "<|end_of_text|>")),
    TemplateFamily("gemma", ("<start_of_turn>",), "<end_of_turn>", ("<end_of_turn>", "<eos>")),
    TemplateFamily("phi3", ("<|assistant|>", "<|end|>"), "<|end|>", ("<|end|>", "<|endoftext|>")),
    TemplateFamily("llama2", ("[INST]",), "</s>", ("</s>",)),
)
"""Narrower families stand before wider ones: the first whose marks are all there is the one."""

OWN = TemplateFamily("own", (), None)
"""A template of no known family: turns end with the tokenizer's EOS token."""


@lru_cache(maxsize=64)
def family_of(chat_template: str) -> TemplateFamily:
    """The family that a Jinja chat template belongs to, `OWN` if none."""
    return next((family for family in FAMILIES if all(mark in chat_template for mark in family.marks)), OWN)


def family(name: str) -> TemplateFamily:
    """The family of that name, `OWN` if there is none."""
    return next((family for family in FAMILIES if family.name == name), OWN)
