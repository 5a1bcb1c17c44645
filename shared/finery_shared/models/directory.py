"""A Hugging Face model directory on disk: is it a whole chat model, and of which kind?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finery_shared.errors import FineryError, Reason

INDEX_FILE = "model.safetensors.index.json"


@dataclass(frozen=True)
class ModelFiles:
    """The parsed small files of a model directory. ``eos_token`` is the tokenizer's, None if it names none."""

    path: Path
    config: Mapping[str, Any]
    chat_template: str
    eos_token: str | None

    @property
    def quantized(self) -> bool:
        """Whether the weights are quantized (config.json has a ``quantization_config``)."""
        return bool(self.config.get("quantization_config"))


def read_model_files(path: Path) -> ModelFiles:
    """Read and check a model directory.

    Raises FILE_MISSING when there is no such directory, MODEL_INVALID when it lacks config, tokenizer, chat template
    or safetensors weights; each message says what to do.
    """
    if not path.is_dir():
        raise FineryError(Reason.FILE_MISSING, f"There is no model directory {path}: check the path.", path=str(path))
    config = _config(path)
    tokenizer = _tokenizer_config(path)
    _check_weights(path)
    return ModelFiles(path, config, _chat_template(path, tokenizer), _text(tokenizer.get("eos_token")))


def is_complete(path: Path) -> bool:
    """Whether a directory holds a config, and every safetensors file of the weights."""
    return (path / "config.json").is_file() and bool(_weight_files(path)) and not _missing_shards(path)


def _config(path: Path) -> Mapping[str, Any]:
    if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
        raise FineryError(
            Reason.MODEL_INVALID,
            f"{path} holds an adapter, not a model: pass it as --ckpt_dir, or merge it first "
            "(`finery export --ckpt_dir DIR --merge_lora true`).",
        )
    return _json(path / "config.json", f"{path} has no config.json: pass a whole Hugging Face model directory.")


def _tokenizer_config(path: Path) -> Mapping[str, Any]:
    if not any((path / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise FineryError(
            Reason.MODEL_INVALID,
            f"{path} has no tokenizer (tokenizer.json): copy the tokenizer files of the base model there.",
        )
    return _json(
        path / "tokenizer_config.json",
        f"{path} has no tokenizer_config.json: copy the tokenizer files of the base model there.",
    )


def _chat_template(path: Path, tokenizer: Mapping[str, Any]) -> str:
    file = path / "chat_template.jinja"
    template = file.read_text(encoding="utf-8") if file.is_file() else tokenizer.get("chat_template")
    if isinstance(template, list):
        named = {entry["name"]: entry["template"] for entry in template}
        template = named.get("default") or next(iter(named.values()), None)
    if not isinstance(template, str) or not template.strip():
        raise FineryError(
            Reason.MODEL_INVALID,
            f"{path} has no chat template (chat_template.jinja, or chat_template in tokenizer_config.json): "
            "use the chat or instruct version of the model, or put its template there.",
        )
    return template


def _check_weights(path: Path) -> None:
    if missing := _missing_shards(path):
        raise FineryError(
            Reason.MODEL_INVALID,
            f"{path} lacks {', '.join(missing[:3])}, named in {INDEX_FILE}: complete the download.",
        )
    if not _weight_files(path):
        found = [file.name for pattern in ("*.bin", "*.gguf", "*.pt", "*.pth") for file in sorted(path.glob(pattern))]
        seen = f" (found {', '.join(found[:3])})" if found else ""
        raise FineryError(
            Reason.MODEL_INVALID,
            f"{path} has no safetensors weights{seen}: convert them with transformers' "
            "save_pretrained(DIR, safe_serialization=True).",
        )


def _weight_files(path: Path) -> list[Path]:
    return sorted(path.glob("*.safetensors"))


def _missing_shards(path: Path) -> list[str]:
    index = path / INDEX_FILE
    if not index.is_file():
        return []
    shards = set(_json(index, "").get("weight_map", {}).values())
    return sorted(shard for shard in shards if not (path / shard).is_file())


def _json(file: Path, missing: str) -> dict[str, Any]:
    try:
        parsed = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FineryError(Reason.MODEL_INVALID, missing, path=str(file)) from None
    except ValueError as error:
        raise FineryError(
            Reason.MODEL_INVALID, f"{file} is not valid JSON ({error}): fetch it again.", path=str(file)
        ) from error
    if not isinstance(parsed, dict):
        raise FineryError(Reason.MODEL_INVALID, f"{file} is not a JSON object: fetch it again.", path=str(file))
    return parsed


def _text(token: object) -> str | None:
    """A special token as text; tokenizer configs write it as a string or as an object with ``content``."""
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) else None
