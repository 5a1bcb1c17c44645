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

    ``bf16``: the processor has instructions for such products. Without them fp32 is several times as fast (measured
    with AVX2). A quantized model keeps its own type, since vLLM's products are in 16 bits alone, but for AWQ where vLLM
    has none (``int4`` False) and `expanded_int4` takes its place. So does a model that would be too large in fp32.
    """
    if config.dtype != "auto" or bf16:
        return config
    described = json.loads((config.model / "config.json").read_text(encoding="utf-8"))
    quantization = described.get("quantization_config")
    if quantization and (int4 or quantization.get("quant_method") != "awq"):
        return config
    if _bytes_in_fp32(config.model, described) > LARGEST_SHARE * memory:
        return config
    return replace(config, dtype="float32")


def stored_dtype(described: Mapping[str, Any]) -> str:
    """The type of a model's weights, by its config.json."""
    return str(described.get("dtype") or described.get("torch_dtype") or "bfloat16")


def _bytes_in_fp32(model: Path, described: Mapping[str, Any]) -> int:
    """At most: not all tensors of a quantized model are int4."""
    stored = sum(file.stat().st_size for file in model.glob("*.safetensors"))
    bits = 4 if described.get("quantization_config") else 32 if stored_dtype(described) == "float32" else 16
    return stored * 32 // bits
