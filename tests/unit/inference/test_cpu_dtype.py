"""What "auto" means on a CPU."""

import json
from pathlib import Path

import pytest

from finery_inference.engines.cpu_dtype import on_cpu
from finery_inference.engines.protocol import EngineConfig
from finery_inference.engines.vllm.arguments import engine_arguments
from finery_inference.engines.vllm.hardware import Hardware

MIB = 2**20


def model(directory: Path, **described: object) -> Path:
    """A model of 2 MiB."""
    config = {"num_hidden_layers": 1, "num_attention_heads": 1, "hidden_size": 64, "dtype": "bfloat16", **described}
    (directory / "config.json").write_text(json.dumps(config))
    for name in ("model-1.safetensors", "model-2.safetensors"):
        (directory / name).write_bytes(bytes(MIB))
    return directory


@pytest.mark.parametrize(
    ("bf16", "memory", "described", "expected"),
    [
        (True, 100 * MIB, {}, "auto"),
        (False, 100 * MIB, {}, "float32"),
        (False, 8 * MIB, {}, "float32"),
        (False, 7 * MIB, {}, "auto"),
        (False, 7 * MIB, {"dtype": "float32"}, "float32"),
    ],
)
def test_auto(tmp_path: Path, bf16: bool, memory: int, described: dict[str, object], expected: str) -> None:
    config = EngineConfig(model(tmp_path, **described))
    assert on_cpu(config, memory, bf16=bf16, int4=True).dtype == expected


@pytest.mark.parametrize(
    ("method", "int4", "memory", "expected"),
    [
        ("awq", True, 100, "auto"),
        ("awq", False, 100, "float32"),
        ("awq", False, 31, "auto"),
        ("gptq", False, 100, "auto"),
    ],
)
def test_auto_for_a_quantized_model(tmp_path: Path, method: str, int4: bool, memory: int, expected: str) -> None:
    config = EngineConfig(model(tmp_path, quantization_config={"quant_method": method}))
    assert on_cpu(config, memory * MIB, bf16=False, int4=int4).dtype == expected


def test_what_is_asked_for_stays(tmp_path: Path) -> None:
    assert (
        on_cpu(EngineConfig(model(tmp_path), dtype="bfloat16"), 100 * MIB, bf16=False, int4=False).dtype == "bfloat16"
    )


def test_vllm_is_told_and_its_cache_holds_as_many_tokens(tmp_path: Path) -> None:
    config = EngineConfig(model(tmp_path), max_model_len=2**19)
    slow, quick = (engine_arguments(config, Hardware(cpu=True, bf16=bf16)) for bf16 in (False, True))
    assert (slow["dtype"], quick["dtype"]) == ("float32", "auto")
    assert slow["kv_cache_memory_bytes"] == 2 * quick["kv_cache_memory_bytes"]
    assert engine_arguments(config, Hardware(cpu=False, bf16=False))["dtype"] == "auto"
