"""The LoRA adapters of one AsyncLLM, and the requests that use them."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from vllm.lora.request import LoRARequest
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from finery_inference.engines.errors import adapter_unloaded, engine_dead
from finery_inference.engines.protocol import EngineAdapter, EngineRequest
from finery_inference.engines.vllm.arguments import refused
from finery_shared.errors import FineryError, Reason

_ARRIVAL_SECONDS = 0.02
"""How often arriving requests of a leaving adapter are aborted."""


class VllmAdapters:
    """Loads and unloads adapters, and knows who must end when one goes."""

    def __init__(self, llm: AsyncLLM, most: int) -> None:
        self._llm = llm
        self._most = most
        self._loading = asyncio.Lock()
        self._users: dict[int, set[str]] = {}
        """Requests under way by the number of their adapter; an adapter that is loaded has an entry."""
        self._arriving: set[str] = set()
        """Those of them without an output so far: vLLM may still prepare them, and can't abort what it prepares."""

    async def load(self, adapter: EngineAdapter) -> None:
        """Raises ENGINE_FAILED with vLLM's reason, UNSUPPORTED when there is no room, ENGINE_DEAD."""
        async with self._loading:
            if len(self._users) >= self._most:
                raise _no_room(self._most)
            try:
                await self._llm.add_lora(lora_request(adapter))
            except EngineDeadError as error:
                raise engine_dead(str(error)) from error
            except Exception as error:
                await self._remove(adapter)
                raise refused(adapter.path, error) from error
            self._users[adapter.number] = set()

    async def unload(self, adapter: EngineAdapter) -> None:
        """End the adapter's requests, then drop it: vLLM would load it again for one that still runs."""
        users = self._users.pop(adapter.number, set())
        if users:
            await self._llm.abort(users)
        while arriving := users & self._arriving:
            await asyncio.sleep(_ARRIVAL_SECONDS)
            await self._llm.abort(arriving)
        await self._remove(adapter)

    def begin(self, request: EngineRequest) -> None:
        """A request is about to run. Raises DEPLOYMENT_NOT_READY if its adapter is not loaded."""
        if request.adapter is not None:
            self.check(request)
            self._users[request.adapter.number].add(request.request_id)
            self._arriving.add(request.request_id)

    def arrived(self, request: EngineRequest) -> None:
        """The request has an output. Raises as `check`."""
        self._arriving.discard(request.request_id)
        self.check(request)

    def check(self, request: EngineRequest) -> None:
        """Raise DEPLOYMENT_NOT_READY if the request's adapter was unloaded."""
        if request.adapter is not None and request.adapter.number not in self._users:
            raise adapter_unloaded()

    def end(self, request: EngineRequest) -> None:
        """A request is over."""
        self._arriving.discard(request.request_id)
        if request.adapter is not None:
            self._users.get(request.adapter.number, set()).discard(request.request_id)

    async def _remove(self, adapter: EngineAdapter) -> None:
        with suppress(EngineDeadError):
            await self._llm.remove_lora(adapter.number)


def _no_room(most: int) -> FineryError:
    message = (
        f"The engine has {most} adapters loaded, as many as it takes. Delete one and create this one again, or deploy "
        f"the model again with --max_loras {most + 1} or more."
    )
    return FineryError(Reason.UNSUPPORTED, message)


def lora_request(adapter: EngineAdapter) -> LoRARequest:
    """As vLLM wants it. The name goes into the keys of its prefix cache, so that no adapter finds another's values."""
    return LoRARequest(adapter.name, adapter.number, str(adapter.path))
