"""A writer of model directories: whole by default, each part can be left out or replaced."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from finery_shared.models import CheckPath, ModelHub, ResolvedModel
from finery_shared.models import resolve as resolve_checked

ModelWriter = Callable[..., Path]


def anywhere(path: str | Path, field: str) -> Path:
    return Path(path).resolve()


def resolve(
    model_type: str | None = None,
    model_id_or_path: str | None = None,
    *,
    store: Path,
    hubs: Sequence[ModelHub] = (),
    check_path: CheckPath = anywhere,
) -> ResolvedModel:
    return resolve_checked(model_type, model_id_or_path, store=store, hubs=hubs, check_path=check_path)


CONFIG: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 151936,
    "max_position_embeddings": 4096,
}
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture
def write_model(tmp_path: Path) -> ModelWriter:
    def write(
        directory: Path | str = "my-model",
        *,
        config: dict[str, Any] | None = None,
        tokenizer: dict[str, Any] | None = None,
        leave_out: tuple[str, ...] = (),
    ) -> Path:
        path = tmp_path / directory
        path.mkdir(parents=True, exist_ok=True)
        files = {
            "config.json": json.dumps(CONFIG | (config or {})),
            "tokenizer.json": "{}",
            "tokenizer_config.json": json.dumps(
                {"chat_template": TEMPLATE, "eos_token": "<|im_end|>"} | (tokenizer or {})
            ),
            "model.safetensors": "",
        }
        for name, content in files.items():
            if name not in leave_out:
                (path / name).write_text(content)
        return path

    return write
