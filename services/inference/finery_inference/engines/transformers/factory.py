"""Starts transformers engines."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from pydantic import JsonValue

from finery_inference.engines.protocol import EngineConfig, InferenceEngine, Tokenizer
from finery_inference.engines.threads import in_daemon_thread
from finery_inference.engines.transformers.arguments import check_model, check_tuning
from finery_inference.engines.transformers.engine import TransformersEngine
from finery_inference.engines.transformers.messages import Load


class TransformersFactory:
    """Every engine is a process of its own.

    On a CPU it has ``threads``, 0 being all cores but one, and a cache of ``cache_bytes``, 0 being what the length asks
    for.
    """

    def __init__(self, threads: int = 0, cache_bytes: int = 0) -> None:
        self._threads = threads
        self._cache_bytes = cache_bytes

    takes_adapters = False

    async def prepare(self) -> None:
        """Nothing is needed before the first start."""

    def check(self, arguments: Mapping[str, JsonValue]) -> None:
        """Refuse engine arguments that this engine has not."""
        check_tuning(arguments)

    async def start(self, config: EngineConfig) -> InferenceEngine:
        """Load a model."""
        await asyncio.to_thread(check_model, config)
        tokenizer = in_daemon_thread(lambda: _tokenizer(config.model), "load tokenizer")
        engine = TransformersEngine()
        try:
            await engine.load(Load(config, self._threads, self._cache_bytes), tokenizer)
        except BaseException:
            tokenizer.add_done_callback(_ignore)
            await engine.shutdown()
            raise
        return engine

    async def close(self) -> None:
        """A start that was cancelled has ended its process itself."""


def _tokenizer(path: Path) -> Tokenizer:
    transformers: Any = importlib.import_module("transformers")
    loaded = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    return cast(Tokenizer, loaded)


def _ignore(tokenizer: asyncio.Future[Tokenizer]) -> None:
    if not tokenizer.cancelled():
        tokenizer.exception()
