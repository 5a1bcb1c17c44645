"""The JSON files of an imported model, in the form that transformers 4 and 5, AutoAWQ and vLLM all read alike.

transformers 5 writes ``rope_parameters``, ``dtype`` and ``TokenizersBackend``; transformers 4 ignores the first two in
silence and doesn't know the third. The older names, which model hubs use too, are understood by both.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from finery_shared.errors import FineryError, Reason

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
WEIGHTS = "model.safetensors"

_LLAMA_KEYS = (
    "architectures",
    "attention_bias",
    "attention_dropout",
    "bos_token_id",
    "eos_token_id",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "initializer_range",
    "intermediate_size",
    "max_position_embeddings",
    "mlp_bias",
    "model_type",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "pad_token_id",
    "pretraining_tp",
    "tie_word_embeddings",
    "use_cache",
    "vocab_size",
)
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_PRE_TOKENIZERS: dict[str, dict[str, Any]] = {
    # No token of this vocabulary holds a digit beside anything else: digits are split off one by one.
    "smollm": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, _BYTE_LEVEL]},
}


def model_config(config: dict[str, Any], *, rope_theta: float) -> dict[str, Any]:
    """``config.json`` of a llama model with bf16 weights, from the dictionary of transformers' own config.

    ``rope_theta`` is the base of the rotary embedding as the GGUF states it; a config that disagrees is refused.
    """
    rope = config.get("rope_parameters") or {}
    if float(rope.get("rope_theta", 0.0)) != rope_theta or rope.get("rope_type", "default") != "default":
        raise FineryError(
            Reason.MODEL_INVALID,
            f"The file's rotary embedding ({rope}) isn't the plain one with base {rope_theta:g} that its metadata "
            "states. Import the model from its Hugging Face directory instead.",
        )
    written = {key: config[key] for key in _LLAMA_KEYS if config.get(key) is not None}
    # GGUF keeps a 32-bit float: 9.99999974e-06 stands for 1e-05.
    written["rms_norm_eps"] = float(f"{config['rms_norm_eps']:.6g}")
    written["rope_scaling"] = None
    written["rope_theta"] = rope_theta
    written["torch_dtype"] = "bfloat16"
    return dict(sorted(written.items()))


def generation_config(config: dict[str, Any]) -> dict[str, Any]:
    """``generation_config.json``: the special tokens alone, no sampling defaults."""
    return {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}


def tokenizer_json(converted: dict[str, Any], *, pre_tokenizer: str) -> dict[str, Any]:
    """``tokenizer.json``: transformers' conversion, with the GGUF's own pre-tokenizer and no post-processing."""
    try:
        rule = _PRE_TOKENIZERS[pre_tokenizer]
    except KeyError:
        raise FineryError(
            Reason.UNSUPPORTED,
            f"The file's pre-tokenizer {pre_tokenizer!r} isn't known here (known: {', '.join(_PRE_TOKENIZERS)}). "
            "Import the model from its Hugging Face directory instead.",
        ) from None
    return {**converted, "pre_tokenizer": rule, "post_processor": None}


def tokenizer_config(tokenizer: dict[str, Any], special_tokens: dict[str, str], *, max_length: int) -> dict[str, Any]:
    """``tokenizer_config.json`` without the chat template, which has a file of its own.

    ``tokenizer`` is ``tokenizer.json``; ``special_tokens`` maps ``bos_token`` and the like to their text.
    """
    added = {str(token["id"]): {k: v for k, v in token.items() if k != "id"} for token in tokenizer["added_tokens"]}
    return {
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "clean_up_tokenization_spaces": False,
        # Without it transformers 4 adds token_type_ids, which llama's generate refuses.
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": max_length,
        "tokenizer_class": "PreTrainedTokenizerFast",
        **special_tokens,
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes one readable JSON file."""
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
