"""Reads a GGUF file: its metadata, its weights dequantized, its tokenizer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from gguf import GGUFReader
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedModel

from finery_shared.errors import FineryError, Reason


@dataclass(frozen=True)
class GgufMetadata:
    """What the import needs to know about a GGUF file before it loads any weight."""

    architecture: str
    context_length: int
    rope_theta: float
    pre_tokenizer: str
    chat_template: str


@dataclass(frozen=True)
class GgufTokenizer:
    """A converted tokenizer: ``tokenizer.json`` as a dictionary, and the text of each special token by role."""

    tokenizer_json: dict[str, Any]
    special_tokens: dict[str, str]


def read_metadata(path: Path) -> GgufMetadata:
    """Reads the header; MODEL_INVALID when it isn't a GGUF file of a llama chat model."""
    try:
        fields = GGUFReader(path).fields
    except ValueError as error:
        raise FineryError(Reason.MODEL_INVALID, f"{path} isn't a GGUF file: {error}. Download it again.") from error
    if "general.architecture" not in fields:
        raise FineryError(Reason.MODEL_INVALID, f"{path} isn't a GGUF file of a language model.")
    architecture = str(fields["general.architecture"].contents())
    if architecture != "llama":
        raise FineryError(
            Reason.UNSUPPORTED, f"{path} holds a {architecture!r} model; only llama models are imported from GGUF."
        )

    def value(key: str) -> Any:
        if key not in fields:
            raise FineryError(Reason.MODEL_INVALID, f"{path} has no {key!r} in its metadata: not a chat model.")
        return fields[key].contents()

    return GgufMetadata(
        architecture=architecture,
        context_length=int(value("llama.context_length")),
        rope_theta=float(value("llama.rope.freq_base")),
        pre_tokenizer=str(value("tokenizer.ggml.pre")),
        chat_template=str(value("tokenizer.chat_template")),
    )


def load_model(path: Path) -> PreTrainedModel:
    """The model with every tensor dequantized to bf16 (without ``dequantize`` it couldn't be saved)."""
    return cast(
        PreTrainedModel,
        AutoModelForCausalLM.from_pretrained(
            str(path.parent),
            gguf_file=path.name,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
        ),
    )


def load_tokenizer(path: Path) -> GgufTokenizer:
    """The tokenizer as transformers converts it."""
    tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
    roles = ("bos_token", "eos_token", "unk_token", "pad_token")
    return GgufTokenizer(
        tokenizer_json=json.loads(tokenizer.backend_tokenizer.to_str()),
        special_tokens={role: str(getattr(tokenizer, role)) for role in roles},
    )
