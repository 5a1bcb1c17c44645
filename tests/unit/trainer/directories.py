"""Directories that look like models to whoever reads their small files alone."""

import json
from pathlib import Path

CHATML = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def write_small_files(directory: Path, **config: object) -> Path:
    """A llama chat model without usable weights."""
    directory.mkdir(parents=True)
    shape = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 1000,
        "max_position_embeddings": 512,
    }
    tokenizer = {"eos_token": "<|im_end|>", "chat_template": CHATML}
    (directory / "config.json").write_text(json.dumps({**shape, **config}))
    (directory / "tokenizer.json").write_text("{}")
    (directory / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (directory / "model.safetensors").write_bytes(b"\0" * 16)
    return directory
