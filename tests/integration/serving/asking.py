"""What the tests ask a gateway, and what came of it."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx

from tests.integration.gateway.processes import Process

CHAT = "/v1/chat/completions"


def body(text: str = "hi", tokens: int = 20, **more: Any) -> dict[str, Any]:
    """A request for exactly so many tokens."""
    messages = [{"role": "user", "content": text}]
    return {"model": "toy", "messages": messages, "max_tokens": tokens, "ignore_eos": True} | more


def client(gateway: Process, seconds: float = 60) -> httpx.AsyncClient:
    """A client of any number of connections."""
    limits = httpx.Limits(max_connections=None)
    return httpx.AsyncClient(base_url=f"http://{gateway.address()}", timeout=seconds, limits=limits)


async def stream(http: httpx.AsyncClient, on_first: Callable[[], None] = lambda: None, **more: Any) -> list[str]:
    """The events of a stream, without "data: "; ends with "broken" when the connection was cut."""
    events: list[str] = []
    try:
        async with http.stream("POST", CHAT, json=body(**more, stream=True)) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    events.append(line.removeprefix("data: "))
                    if len(events) == 2:
                        on_first()
                elif line.startswith("{"):
                    events.append(line)
    except httpx.HTTPError:
        events.append("broken")
    return events


def error_code(event: str) -> str:
    """The code of an error event."""
    return str(json.loads(event)["error"]["code"])


def tokens(events: list[str]) -> int:
    """How many letters, which are the fake engine's tokens, the deltas hold."""
    chunks = [json.loads(event) for event in events if event.startswith('{"id"')]
    return sum(len(c["choices"][0]["delta"].get("content") or "") for c in chunks if c["choices"])


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait without holding the event loop up."""
    async with asyncio.timeout(seconds):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.02)
