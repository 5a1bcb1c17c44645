"""How large a key-value cache to give an engine on a CPU; on a GPU an engine takes a share of the card."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from finery_inference.engines.cpu_dtype import stored_dtype
from finery_inference.engines.protocol import EngineConfig

STREAMS = 4
"""Requests of full length that should fit at once; shorter ones fit in greater numbers."""

LEAST = 256 * 2**20
LARGEST_SHARE = 0.25
"""Of the machine's memory."""


def kv_cache_bytes(config: EngineConfig, memory: int) -> int:
    """Bytes for a cache on a machine with so many bytes of memory."""
    described = json.loads((config.model / "config.json").read_text(encoding="utf-8"))
    length = config.max_model_len or int(described.get("max_position_embeddings", 2048))
    wanted = bytes_per_token(described, config.dtype) * length * STREAMS
    return min(max(wanted, LEAST), int(memory * LARGEST_SHARE))


def bytes_per_token(described: Mapping[str, Any], dtype: str = "auto") -> int:
    """Keys and values of one token in all layers, by a model's config.json."""
    heads = int(described["num_attention_heads"])
    kv_heads = int(described.get("num_key_value_heads") or heads)
    head_size = int(described.get("head_dim") or int(described["hidden_size"]) // heads)
    width = 4 if (stored_dtype(described) if dtype == "auto" else dtype) == "float32" else 2
    return 2 * int(described["num_hidden_layers"]) * kv_heads * head_size * width


def machine_memory() -> int:
    """Physical memory in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
