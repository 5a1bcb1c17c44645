"""A model directory for the fake engine, which opens no weights."""

import json
from pathlib import Path
from typing import Any

CHATML = "{% for m in messages %}<|im_start|>{{m.role}}\n{{m.content}}<|im_end|>\n{% endfor %}"

TOOL_CHATML = CHATML + "{% if tools %}<tool_call>{{ tools | tojson }}arguments{% endif %}"
"""The marks of a template whose model calls tools; the fake engine renders by itself."""


def write_model(path: Path, chat_template: str = CHATML, **generation: Any) -> Path:
    """A directory that passes for a Llama chat model; the fake engine opens neither its weights nor its template."""
    path.mkdir(parents=True)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 2048, "vocab_size": 259, **shape}
    (path / "config.json").write_text(json.dumps(config))
    (path / "tokenizer.json").write_text("{}")
    (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": chat_template, "eos_token": "<|im_end|>"}))
    (path / "generation_config.json").write_text(json.dumps(generation))
    (path / "model.safetensors").write_bytes(b"weights")
    return path
