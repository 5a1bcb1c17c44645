"""What vLLM leaves to its caller when an adapter goes: a stand-in for AsyncLLM that prepares a request for a while."""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import pytest
from vllm.v1.engine.async_llm import AsyncLLM

from finery_inference.engines.protocol import EngineAdapter, EngineRequest, Sampling
from finery_inference.engines.vllm.adapters import VllmAdapters
from finery_shared.errors import FineryError, Reason


class Preparing:
    """Knows no request before the second time that it should abort one."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.prepared = asyncio.Event()

    async def add_lora(self, lora: Any) -> None:
        self.calls.append("add")

    async def abort(self, request_ids: Iterable[str]) -> None:
        if "abort" in self.calls:
            self.prepared.set()
        self.calls.append("abort")

    async def remove_lora(self, number: int) -> None:
        self.calls.append("remove")


async def test_an_adapter_stays_until_its_arriving_requests_have_ended(tmp_path: Path) -> None:
    llm = Preparing()
    adapters = VllmAdapters(cast(AsyncLLM, llm), most=1)
    adapter = EngineAdapter(1, "a", tmp_path)
    request = EngineRequest("r", [1], Sampling(max_tokens=1), adapter)
    await adapters.load(adapter)
    adapters.begin(request)
    unloading = asyncio.create_task(adapters.unload(adapter))
    await asyncio.wait_for(llm.prepared.wait(), 5)
    assert "remove" not in llm.calls
    with pytest.raises(FineryError) as caught:
        adapters.arrived(request)
    assert caught.value.reason is Reason.DEPLOYMENT_NOT_READY
    adapters.end(request)
    await asyncio.wait_for(unloading, 5)
    assert llm.calls[-1] == "remove"
