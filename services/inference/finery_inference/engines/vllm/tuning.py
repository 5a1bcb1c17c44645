"""Which of vLLM's arguments a deployment may set: those that only make an engine faster, slower, larger or smaller."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches

from pydantic import JsonValue

from finery_shared.errors import invalid

OWN_FIELDS = frozenset(
    {
        *("max_model_len", "dtype", "gpu_memory_utilization", "tensor_parallel_size"),
        *("enable_lora", "max_loras", "max_lora_rank"),
    }
)
"""Arguments that a deployment has fields for."""

TUNING = frozenset(
    {
        *("block_size", "kv_cache_dtype", "kv_cache_memory_bytes", "num_gpu_blocks_override", "cpu_offload_gb"),
        *("enable_prefix_caching", "prefix_caching_hash_algo", "enable_chunked_prefill", "max_num_batched_tokens"),
        *("max_num_scheduled_tokens", "max_num_seqs", "long_prefill_token_threshold", "scheduling_policy"),
        *("async_scheduling", "stream_interval", "max_logprobs", "seed", "enforce_eager", "optimization_level"),
        *("performance_mode", "cudagraph_capture_sizes", "max_cudagraph_capture_size", "attention_backend"),
        *("disable_cascade_attn", "disable_sliding_window", "disable_custom_all_reduce", "pipeline_parallel_size"),
        *("enable_expert_parallel", "moe_backend", "linear_backend", "quantization", "load_format"),
        *("safetensors_load_strategy", "max_parallel_loading_workers", "numa_bind"),
    }
)
"""All other arguments are refused: many run code, open files or reach the network, and each version has new ones."""

SAFE_FORMATS = ("safetensors", "dummy")
"""Weights that cannot run code; dummy ones serve to measure speed."""


def check_tuning(arguments: Mapping[str, JsonValue]) -> None:
    """Refuse engine arguments by name, and values that are more than numbers and words: INVALID_ARGUMENT."""
    for name, value in arguments.items():
        if name in OWN_FIELDS:
            raise invalid("engine_args", f"{name} has a field of its own; set that.")
        if name not in TUNING:
            near = get_close_matches(name, TUNING, n=3, cutoff=0.8)
            hint = f"Did you mean {' or '.join(near)}?" if near else f"What can be: {', '.join(sorted(TUNING))}."
            raise invalid("engine_args", f"{name} can't be set from outside; leave it out. {hint}")
        if name == "load_format" and value not in SAFE_FORMATS:
            raise invalid("engine_args", f"load_format must be one of: {', '.join(SAFE_FORMATS)}.")
        if not _is_plain(value):
            raise invalid("engine_args", f"the value of {name} is neither a number, a word, nor a list of numbers.")


def _is_plain(value: JsonValue) -> bool:
    if isinstance(value, list):
        return all(isinstance(item, int | float) for item in value)
    return not isinstance(value, dict)
