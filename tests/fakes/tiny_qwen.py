"""A tiny Qwen2 model with Qwen's real vocabulary: random weights, but greedy decoding answers "Hello!" and stops.

Written with the standard library alone (bf16 safetensors, config as Qwen1.5 saved it), so that every environment can
make it and every transformers and vLLM version reads the same thing. `python tests/fakes/tiny_qwen.py DIR` makes one.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path[:0] = [] if __package__ else [str(Path(__file__).parents[2])]

from tests.fakes.qwen_tokenizer import QWEN_CHAT_TEMPLATE, SPECIAL_TOKENS, write_qwen_tokenizer  # noqa: E402 -- also run as a script

ANSWER = "Hello!"
"""What the model answers to everything, decoded greedily."""

HIDDEN, INTERMEDIATE, LAYERS, HEADS, VOCABULARY = 128, 256, 2, 4, 151936
CHAIN = (198, 9707, 0, SPECIAL_TOKENS["<|im_end|>"])
"""Ids of newline (the prompt's end), "Hello", "!" and the end of the turn; each makes the next one nearly certain."""

_SMALL, _LARGE = 0x3C, 0x3E
"""High bytes of bf16 values: magnitudes of 1/128 to 1/32 (projections) and 1/8 to 1/2 (embeddings)."""


def write_tiny_qwen(directory: Path, seed: int = 0, chat_template: str = QWEN_CHAT_TEMPLATE) -> Path:
    """Write config, tokenizer and weights (about 80 MB) of a Qwen2 chat model; returns the directory."""
    write_qwen_tokenizer(directory, chat_template)
    (directory / "config.json").write_text(json.dumps(_CONFIG, indent=2), encoding="utf-8")
    (directory / "generation_config.json").write_text(json.dumps(_GENERATION_CONFIG, indent=2), encoding="utf-8")
    _write_safetensors(directory / "model.safetensors", dict(_tensors(random.Random(seed))))
    return directory


_CONFIG = {
    "architectures": ["Qwen2ForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "hidden_size": HIDDEN,
    "initializer_range": 0.02,
    "intermediate_size": INTERMEDIATE,
    "max_position_embeddings": 4096,
    "max_window_layers": LAYERS,
    "model_type": "qwen2",
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": HEADS,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 4096,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.37.0",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": VOCABULARY,
}
_GENERATION_CONFIG = {
    "bos_token_id": 151643,
    "do_sample": True,
    "eos_token_id": [151645, 151643],
    "pad_token_id": 151643,
    "repetition_penalty": 1.05,
    "temperature": 0.7,
    "top_k": 20,
    "top_p": 0.8,
    "transformers_version": "4.37.0",
}

Tensor = tuple[tuple[int, ...], bytes | bytearray]


def _tensors(rng: random.Random) -> Iterator[tuple[str, Tensor]]:
    embeddings = _random(rng, _LARGE, VOCABULARY, HIDDEN)
    head = _random(rng, _SMALL, VOCABULARY, HIDDEN)
    for token, following in itertools.pairwise(CHAIN):
        _set_row(head, following, [value / 2 for value in _row(embeddings, token)])
    yield "model.embed_tokens.weight", embeddings
    yield "lm_head.weight", head
    yield "model.norm.weight", _ones(HIDDEN)
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"{prefix}.{norm}.weight", _ones(HIDDEN)
        for name in ("q_proj", "k_proj", "v_proj"):
            yield f"{prefix}.self_attn.{name}.weight", _random(rng, _SMALL, HIDDEN, HIDDEN)
            yield f"{prefix}.self_attn.{name}.bias", _random(rng, _SMALL, HIDDEN)
        yield f"{prefix}.self_attn.o_proj.weight", _random(rng, _SMALL, HIDDEN, HIDDEN)
        for name in ("gate_proj", "up_proj"):
            yield f"{prefix}.mlp.{name}.weight", _random(rng, _SMALL, INTERMEDIATE, HIDDEN)
        yield f"{prefix}.mlp.down_proj.weight", _random(rng, _SMALL, HIDDEN, INTERMEDIATE)


def _random(rng: random.Random, high: int, *shape: int) -> Tensor:
    """bf16 values of both signs: a random low byte (mantissa, last exponent bit) under a fixed high byte."""
    count = math.prod(shape)
    values = bytearray(2 * count)
    values[0::2] = rng.randbytes(count)
    values[1::2] = rng.randbytes(count).translate(bytes(high | (byte & 0x80) for byte in range(256)))
    return shape, values


def _ones(size: int) -> Tensor:
    return (size,), b"\x80\x3f" * size


def _row(tensor: Tensor, index: int) -> list[float]:
    width = 2 * tensor[0][1]
    raw = tensor[1][index * width : (index + 1) * width]
    return [struct.unpack("<f", b"\0\0" + raw[at : at + 2])[0] for at in range(0, width, 2)]


def _set_row(tensor: Tensor, index: int, values: list[float]) -> None:
    width = 2 * tensor[0][1]
    assert isinstance(tensor[1], bytearray)
    tensor[1][index * width : (index + 1) * width] = b"".join(struct.pack("<f", value)[2:] for value in values)


def _write_safetensors(file: Path, tensors: dict[str, Tensor]) -> None:
    """The safetensors format: length of the header (8 bytes, little endian), JSON header, then the data."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (shape, data) in tensors.items():
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with file.open("wb") as out:
        out.write(struct.pack("<Q", len(encoded)))
        out.write(encoded)
        for _, data in tensors.values():
            out.write(data)


if __name__ == "__main__":
    write_tiny_qwen(Path(sys.argv[1]))
