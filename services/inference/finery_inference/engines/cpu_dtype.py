"""What an engine computes in on a CPU; on a GPU the model decides."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from finery_inference.engines.protocol import EngineConfig

LARGEST_SHARE = 0.5
"""Of the machine's memory that weights may take in fp32."""


def on_cpu(config: EngineConfig, memory: int, *, bf16: bool, int4: bool) -> EngineConfig:
    """The config with "auto" decided for a machine with ``memory`` bytes.

    ``bf16``: the processor has instructions for such products. Without them fp32 is several times as fast. ``int4``:
    vLLM has a product for quantized models there. It is in 16 bits alone, so those models keep their own type; so do
    all that would be too large in fp32.
    """
    if config.dtype != "auto" or bf16:
        return config
    described = json.loads((config.model / "config.json").read_text(encoding="utf-8"))
    quantized = bool(described.get("quantization_config"))
    if (quantized and int4) or _bytes_in_fp32(config.model, described, quantized) > LARGEST_SHARE * memory:
        return config
    return replace(config, dtype="float32")


def stored_dtype(described: Mapping[str, Any]) -> str:
    """The type of a model's weights, by its config.json."""
    return str(described.get("dtype") or described.get("torch_dtype") or "bfloat16")


def _bytes_in_fp32(model: Path, described: Mapping[str, Any], quantized: bool) -> int:
    """At most: not all tensors of a quantized model are int4."""
    stored = sum(file.stat().st_size for file in model.glob("*.safetensors"))
    bits = 4 if quantized else 32 if stored_dtype(described) == "float32" else 16
    return stored * 32 // bits
