"""From an EngineConfig to vLLM's own arguments, and from vLLM's refusals to errors for users."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finery_inference.engines.cpu_dtype import on_cpu
from finery_inference.engines.errors import engine_dead
from finery_inference.engines.kv_cache import kv_cache_bytes, machine_memory
from finery_inference.engines.protocol import MOST_ADAPTERS, EngineConfig
from finery_inference.engines.vllm.hardware import Hardware
from finery_shared.errors import FineryError, Reason

_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM makes room for; see vllm.config.lora.MaxLoRARanks."""


def engine_arguments(config: EngineConfig, hardware: Hardware) -> dict[str, Any]:
    """Keyword arguments of AsyncEngineArgs. ``quantization`` is left to what the model's config.json says."""
    if hardware.cpu:
        config = on_cpu(config, machine_memory(), bf16=hardware.bf16, int4=hardware.int4)
    chosen: dict[str, Any] = {
        "model": str(config.model),
        "tokenizer": str(config.model),
        # -1 is vLLM's "auto": the model's own length, or less if the cache is too small for it.
        "max_model_len": config.max_model_len or -1,
        "dtype": config.dtype,
        "tensor_parallel_size": config.tensor_parallel_size,
        "load_format": "safetensors",
        "trust_remote_code": False,
        # The service fills in defaults itself, so that they are the same for every engine.
        "generation_config": "vllm",
        "disable_log_stats": True,
    }
    if config.gpu_memory_utilization is not None:
        chosen["gpu_memory_utilization"] = config.gpu_memory_utilization
    if config.lora is not None:
        # On a CPU vLLM 0.32 gives requests without an adapter what is in the last slot (lora/ops/torch_ops indexes by
        # -1): there is one more, and `most_adapters` keeps it empty.
        slots = config.lora.batch + hardware.cpu
        chosen |= {
            "enable_lora": True,
            "max_loras": slots,
            "max_lora_rank": next(rank for rank in _RANKS if rank >= config.lora.rank),
            # As many as there can be: vLLM would load one that it had to drop while it computes, from a directory that
            # may be gone by then, which ends the engine.
            "max_cpu_loras": max(MOST_ADAPTERS, slots),
        }
    if hardware.cpu:
        # Compiling takes minutes on a few cores and gains little there.
        cache = hardware.kv_cache_bytes or kv_cache_bytes(config, machine_memory())
        chosen |= {"enforce_eager": True, "kv_cache_memory_bytes": cache}
        if config.tensor_parallel_size == 1:
            chosen["distributed_executor_backend"] = "uni"
    return {**chosen, **config.extra}


def most_adapters(config: EngineConfig, hardware: Hardware) -> int:
    """How many adapters an engine may have loaded at a time."""
    if config.lora is None:
        return 0
    return config.lora.batch if hardware.cpu else MOST_ADAPTERS


def start_error(config: EngineConfig, error: Exception, last_words: str) -> FineryError:
    """What a failed start means. ``last_words`` are those of the engine's process, if it left some."""
    text = str(error).strip()
    if "Failed core proc(s)" not in text:
        return refused(config.model, error)
    if last_words:
        return FineryError(Reason.ENGINE_FAILED, f"vLLM could not load {config.model}: {_short(last_words)}")
    if ": -9" in text or ": -15" in text:
        return engine_dead(text)
    message = f"vLLM could not load {config.model}. The inference service's log has the engine's own words."
    return FineryError(Reason.ENGINE_FAILED, message, detail=text)


def refused(path: Path, error: Exception) -> FineryError:
    """VLLM refuses a model or an adapter."""
    text = str(error).strip()
    said = _short(text) or type(error).__name__
    return FineryError(Reason.ENGINE_FAILED, f"vLLM refuses {path}: {said}", detail=text)


def _short(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines[:3])[:500]
