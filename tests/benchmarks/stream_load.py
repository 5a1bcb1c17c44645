"""Load for a gateway: streamed chat completions over plain sockets, cheap enough not to be what is measured."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_END = b"data: [DONE]\n\n"
_CHUNK = b'"finish_reason":null'


@dataclass
class Outcome:
    """What streams brought: counts, and each one's seconds to its first token and in all."""

    chunks: int = 0
    tokens: int = 0
    errors: list[str] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(self, other: Outcome) -> None:
        """Take another one in."""
        self.chunks += other.chunks
        self.tokens += other.tokens
        self.errors += other.errors
        self.first += other.first
        self.seconds += other.seconds


@dataclass(frozen=True)
class Load:
    """``streams`` clients, each with ``requests`` requests one after the other, over ``processes`` processes.

    With ``leave_after`` a client leaves every second stream after so many bytes of it.
    """

    url: str
    model: str
    streams: int
    requests: int
    max_tokens: int
    processes: int = 1
    leave_after: int = 0

    def run(self) -> Outcome:
        """Run it to its end."""
        shares = [self.streams // self.processes + (i < self.streams % self.processes) for i in range(self.processes)]
        context = multiprocessing.get_context("spawn")
        with context.Pool(self.processes) as pool:
            return _sum(pool.starmap(_run, [(self, share, at) for at, share in enumerate(shares)]))

    def body(self, stream: int, request: int) -> bytes:
        """The body of one request."""
        wish = {
            "model": self.model,
            "messages": [{"role": "user", "content": f"Question {request} of client {stream}."}],
            "max_tokens": self.max_tokens,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        return json.dumps(wish).encode()


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which that share lies; 0 for none."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0


def _sum(outcomes: Sequence[Outcome]) -> Outcome:
    whole = Outcome()
    for outcome in outcomes:
        whole.add(outcome)
    return whole


def _run(load: Load, streams: int, process: int) -> Outcome:
    async def all_of_them() -> Outcome:
        return _sum(await asyncio.gather(*(_client(load, process * 100_000 + at) for at in range(streams))))

    return asyncio.run(all_of_them())


async def _client(load: Load, number: int) -> Outcome:
    outcome = Outcome()
    connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    address = urlsplit(load.url)
    for request in range(load.requests):
        try:
            connection = connection or await asyncio.open_connection(address.hostname, address.port)
            leaves = load.leave_after if request % 2 else 0
            if not await _stream(connection, load.body(number, request), outcome, leaves):
                connection[1].close()
                connection = None
        except (OSError, EOFError, ValueError) as error:
            outcome.errors.append(f"{type(error).__name__}: {error}")
            connection = None
    if connection:
        connection[1].close()
    return outcome


async def _stream(
    connection: tuple[asyncio.StreamReader, asyncio.StreamWriter], body: bytes, outcome: Outcome, leaves: int
) -> bool:
    """One request; whether the connection can be used for another one."""
    reader, writer = connection
    start = time.perf_counter()
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    )
    writer.write(head % len(body) + body)
    answer = await reader.readuntil(b"\r\n\r\n")
    if not answer.startswith(b"HTTP/1.1 200"):
        raise ValueError(answer.split(b"\r\n")[0].decode())
    first = 0.0
    tail = overlap = b""
    seen = 0
    while True:
        data = await reader.read(65536)
        if not data:
            raise EOFError("the connection was closed in mid-stream")
        first = first or time.perf_counter() - start
        outcome.chunks += (overlap + data).count(_CHUNK)
        overlap = (overlap + data)[1 - len(_CHUNK) :]
        seen += len(data)
        tail = (tail + data)[-1000:]
        if leaves and seen > leaves:
            return False
        if tail.endswith(_END + b"\r\n0\r\n\r\n"):
            break
    outcome.first.append(first)
    outcome.seconds.append(time.perf_counter() - start)
    outcome.tokens += int(tail.rsplit(b'"completion_tokens":', 1)[1].split(b",")[0].split(b"}")[0])
    return True
