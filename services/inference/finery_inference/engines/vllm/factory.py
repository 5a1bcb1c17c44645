"""Starts vLLM engines; imports vLLM in the background, so that the service answers meanwhile."""

from __future__ import annotations

import asyncio
import importlib
import multiprocessing
from typing import TYPE_CHECKING, Any, cast

from finery_inference.engines.protocol import EngineConfig, InferenceEngine
from finery_inference.engines.threads import in_daemon_thread
from finery_inference.engines.vllm.hardware import Hardware

if TYPE_CHECKING:
    from finery_inference.engines.vllm.engine import VllmStarter


class VllmFactory:
    """Every engine is a process tree of its own."""

    def __init__(self, hardware: Hardware) -> None:
        self._hardware = hardware
        self._starter: asyncio.Future[VllmStarter] | None = None

    async def prepare(self) -> None:
        """Begin to import vLLM; does not wait for it."""
        if self._starter is None:
            self._starter = in_daemon_thread(self._import, "import vllm")

    async def check(self, config: EngineConfig) -> None:
        """Refuse engine arguments that vLLM does not have, and those that belong to Finery."""
        if config.extra:
            (await self._loaded()).check(config)

    async def start(self, config: EngineConfig) -> InferenceEngine:
        """Load a model."""
        return await (await self._loaded()).start(config)

    async def close(self) -> None:
        """End the processes of starts that were cancelled and are not over."""
        for child in multiprocessing.active_children():
            child.kill()

    async def _loaded(self) -> VllmStarter:
        await self.prepare()
        return await asyncio.shield(cast("asyncio.Future[VllmStarter]", self._starter))

    def _import(self) -> VllmStarter:
        module: Any = importlib.import_module("finery_inference.engines.vllm.engine")
        return cast("VllmStarter", module.VllmStarter(self._hardware))
