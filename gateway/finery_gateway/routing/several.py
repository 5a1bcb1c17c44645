"""Several generations as one: what answers a request that has several prompts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from finery.inference.v1 import inference_pb2 as pb
from finery_gateway.routing.generation import Generation
from finery_shared.errors import FineryError

_AHEAD = 64
"""Events that may wait to be written."""


class Several:
    """Runs ``generations`` side by side; answer j of prompt i becomes answer i · n + j. One that fails ends all.

    If they are not ``streamed``, each is held back until it is complete, and moves to another backend until then.
    """

    def __init__(self, generations: Sequence[Generation], n: int, *, streamed: bool) -> None:
        self._generations = generations
        self._n = n
        self._events_of = _events if streamed else _events_at_the_end

    @property
    def backend(self) -> str:
        """Addresses of the backends that answer."""
        return ",".join(sorted({g.backend for g in self._generations if g.backend}))

    @property
    def fingerprint(self) -> str | None:
        """That of the first one that answers."""
        return next((g.fingerprint for g in self._generations if g.fingerprint), None)

    @property
    def moves(self) -> int:
        """Those of all."""
        return sum(g.moves for g in self._generations)

    def may_move(self, _failure: FineryError) -> bool:
        """Each generation has moved by itself while it could."""
        return False

    def cancel(self) -> None:
        """Cancel all."""
        for generation in self._generations:
            generation.cancel()

    def close(self) -> None:
        """Close all."""
        for generation in self._generations:
            generation.close()

    async def events(self) -> AsyncGenerator[pb.GenerateResponse, None]:
        """The chunks of all as they come, and one complete message when the last has ended."""
        coming: asyncio.Queue[pb.GenerateResponse | Exception] = asyncio.Queue(_AHEAD)
        completes: list[pb.GenerateComplete | None] = [None] * len(self._generations)

        async def relay(at: int, generation: Generation) -> None:
            try:
                async with aclosing(self._events_of(generation)) as events:
                    async for event in events:
                        if event.HasField("chunk"):
                            event.chunk.index += at * self._n
                        else:
                            completes[at] = event.complete
                        await coming.put(event)
            except Exception as failure:  # whatever it is, it is raised where the events are read
                await coming.put(failure)

        tasks = [asyncio.create_task(relay(at, generation)) for at, generation in enumerate(self._generations)]
        try:
            while None in completes or not coming.empty():
                event = await coming.get()
                if isinstance(event, Exception):
                    raise event
                if event.HasField("chunk"):
                    yield event
            yield pb.GenerateResponse(complete=self._joined([c for c in completes if c is not None]))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _joined(self, completes: Sequence[pb.GenerateComplete]) -> pb.GenerateComplete:
        whole = pb.GenerateComplete()
        for at, complete in enumerate(completes):
            for finish in complete.finishes:
                whole.finishes.add(index=finish.index + at * self._n, finish_reason=finish.finish_reason)
            for field in ("prompt_tokens", "completion_tokens", "cached_tokens"):
                setattr(whole.usage, field, getattr(whole.usage, field) + getattr(complete.usage, field))
        return whole


def _events(generation: Generation) -> AsyncGenerator[pb.GenerateResponse, None]:
    return generation.events()


async def _events_at_the_end(generation: Generation) -> AsyncGenerator[pb.GenerateResponse, None]:
    """All events of an answer once it is complete: what a backend that fails midway has made is dropped."""
    while True:
        try:
            async with aclosing(generation.events()) as events:
                whole = [event async for event in events]
        except FineryError as failure:
            if not generation.may_move(failure):
                raise
        else:
            break
    for event in whole:
        yield event
