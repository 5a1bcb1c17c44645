"""A loaded model with what requests need to know of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finery_inference.engines.protocol import EngineAdapter, InferenceEngine
from finery_inference.engines.token_bytes import TokenBytes
from finery_shared.templates import stop_token_ids

_DEFAULTS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


@dataclass(frozen=True)
class LoadedModel:
    """An engine, the sampling defaults of its model's generation_config, the tokens that end a turn, and
    the bytes of all.

    ``tool_parser`` is the registry's name for the model's format of tool calls. With an adapter it stands for that
    adapter on top of the model.
    """

    engine: InferenceEngine
    path: Path
    defaults: Mapping[str, float]
    stop_token_ids: tuple[int, ...]
    max_model_len: int
    vocab_size: int
    token_bytes: TokenBytes
    tool_parser: str | None = None
    adapter: EngineAdapter | None = None


def front(engine: InferenceEngine, path: Path, tool_parser: str | None = None) -> LoadedModel:
    """Read what a model's directory says of generation."""
    config = _generation_config(path)
    defaults = {name: value for name in _DEFAULTS if isinstance(value := config.get(name), int | float)}
    eos = config.get("eos_token_id")
    ends = [eos] if isinstance(eos, int) else [token for token in eos or () if isinstance(token, int)]
    stops = tuple(dict.fromkeys((*stop_token_ids(engine.tokenizer), *ends)))
    tokens = TokenBytes(engine.tokenizer.get_vocab())
    return LoadedModel(engine, path, defaults, stops, engine.max_model_len, engine.vocab_size, tokens, tool_parser)


def _generation_config(path: Path) -> Mapping[str, Any]:
    try:
        config = json.loads((path / "generation_config.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}
