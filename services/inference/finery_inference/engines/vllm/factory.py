"""Starts vLLM engines; imports vLLM in the background, so that the service answers meanwhile."""

from __future__ import annotations

import asyncio
import importlib
import multiprocessing
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import JsonValue

from finery_inference.engines.protocol import EngineConfig, InferenceEngine
from finery_inference.engines.threads import in_daemon_thread
from finery_inference.engines.vllm.hardware import Hardware
from finery_inference.engines.vllm.tuning import check_tuning

if TYPE_CHECKING:
    from finery_inference.engines.vllm.engine import VllmStarter


class VllmFactory:
    """Every engine is a process tree of its own. ``scratch`` is for this service's engines alone."""

    def __init__(self, hardware: Hardware, scratch: Path) -> None:
        self._hardware = hardware
        self._scratch = scratch
        self._starter: asyncio.Future[VllmStarter] | None = None
        self._owns_scratch = False

    takes_adapters = True

    async def prepare(self) -> None:
        """Begin to import vLLM; does not wait for it."""
        if self._starter is None:
            self._starter = in_daemon_thread(self._import, "import vllm")

    def check(self, arguments: Mapping[str, JsonValue]) -> None:
        """Refuse engine arguments that are not for tuning; needs no import of vLLM, which takes long."""
        check_tuning(arguments)

    async def start(self, config: EngineConfig) -> InferenceEngine:
        """Load a model."""
        return await (await self._loaded()).start(config)

    async def close(self) -> None:
        """End the processes of starts that were cancelled and are not over, and remove what engines left on disk.

        A factory that was never prepared leaves the directory alone: its service was refused, since another one with
        the same state runs.
        """
        for child in multiprocessing.active_children():
            child.kill()
        if self._owns_scratch:
            shutil.rmtree(self._scratch, ignore_errors=True)

    async def _loaded(self) -> VllmStarter:
        await self.prepare()
        return await asyncio.shield(cast("asyncio.Future[VllmStarter]", self._starter))

    def _import(self) -> VllmStarter:
        # vLLM removes its sockets when it ends by itself; a killed one leaves them to the next start.
        self._owns_scratch = True
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch.mkdir(mode=0o700)
        module: Any = importlib.import_module("finery_inference.engines.vllm.engine")
        return cast("VllmStarter", module.VllmStarter(self._hardware))
