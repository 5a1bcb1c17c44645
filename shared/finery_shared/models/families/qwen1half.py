"""Qwen1.5 chat models (Alibaba) and their AWQ int4 versions, under ms-swift's names. https://qwenlm.github.io/blog/qwen1.5."""

from __future__ import annotations

from finery_shared.models.shape import ModelShape
from finery_shared.models.spec import ModelSpec

_SHAPES = {
    "0.5B": ModelShape(1024, 2816, layers=24, heads=16, kv_heads=16, vocab_size=151936),
    "1.8B": ModelShape(2048, 5504, layers=24, heads=16, kv_heads=16, vocab_size=151936),
    "4B": ModelShape(2560, 6912, layers=40, heads=20, kv_heads=20, vocab_size=151936),
    "7B": ModelShape(4096, 11008, layers=32, heads=32, kv_heads=32, vocab_size=151936),
    "14B": ModelShape(5120, 13696, layers=40, heads=40, kv_heads=40, vocab_size=152064),
    "32B": ModelShape(5120, 27392, layers=64, heads=40, kv_heads=8, vocab_size=152064),
    "72B": ModelShape(8192, 24576, layers=80, heads=64, kv_heads=64, vocab_size=152064),
    "110B": ModelShape(8192, 49152, layers=80, heads=64, kv_heads=8, vocab_size=152064),
}


def _spec(size: str, *, awq: bool) -> ModelSpec:
    name = f"Qwen1.5-{size}-Chat" + ("-AWQ" if awq else "")
    return ModelSpec(
        model_type=f"qwen1half-{size.lower().replace('.', '_')}-chat" + ("-awq" if awq else ""),
        family="qwen1half",
        architecture="Qwen2ForCausalLM",
        template="qwen",
        shape=_SHAPES[size],
        hf_id=f"Qwen/{name}",
        ms_id=f"qwen/{name}",
        default_system="You are a helpful assistant",
        stop_tokens=("<|im_end|>", "<|endoftext|>"),
        max_model_len=32768,
        quantized=awq,
        identity=("Qwen", "通义千问", "千问", "Tongyi", "Alibaba", "阿里"),
    )


SPECS = tuple(_spec(size, awq=awq) for awq in (False, True) for size in _SHAPES)
