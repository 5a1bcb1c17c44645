"""Qwen1.5-7B-Chat-AWQ without its weights: config and tokenizer, for engines that make random ones (load_format dummy).

python tests/benchmarks/awq_shape.py DIR
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.fakes.qwen_tokenizer import write_qwen_tokenizer

CONFIG = {
    "architectures": ["Qwen2ForCausalLM"],
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "max_position_embeddings": 32768,
    "model_type": "qwen2",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "quantization_config": {
        "bits": 4,
        "group_size": 128,
        "modules_to_not_convert": None,
        "quant_method": "awq",
        "version": "gemm",
        "zero_point": True,
    },
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "vocab_size": 151936,
}


def write_awq_shape(directory: Path) -> Path:
    """Write the directory; returns it. Its weights are an empty file of the right form."""
    write_qwen_tokenizer(directory)
    (directory / "config.json").write_text(json.dumps(CONFIG, indent=2))
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [151645, 151643]}))
    (directory / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    return directory


if __name__ == "__main__":
    write_awq_shape(Path(sys.argv[1]))
