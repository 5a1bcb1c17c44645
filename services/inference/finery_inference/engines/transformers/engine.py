"""The service's side of a worker process: an engine like any other."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import replace

from finery_inference.engines.errors import engine_dead
from finery_inference.engines.processes import EngineProcesses
from finery_inference.engines.protocol import Delta, EngineAdapter, EngineRequest, EngineStats, Tokenizer, Vitals
from finery_inference.engines.transformers.arguments import check_request
from finery_inference.engines.transformers.messages import (
    Abort,
    Alive,
    Check,
    Load,
    NotLoaded,
    Ready,
    Report,
    RequestFailed,
    Step,
)
from finery_inference.engines.transformers.process import WorkerProcess
from finery_shared.errors import FineryError, Reason

Queue = asyncio.Queue[Delta | FineryError]


class TransformersEngine:
    """One worker process. `load` it before use."""

    def __init__(self) -> None:
        self._queues: dict[str, Queue] = {}
        self._unfinished: dict[str, int] = {}
        """Answers of each request that the worker has yet to end."""
        self._steps = 0
        self._checks: deque[asyncio.Future[None]] = deque()
        self._stats = EngineStats(0, 0, 0.0, 0)
        self._loaded: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        self._tokenizer: Tokenizer
        self._dead = False
        self._process = WorkerProcess(self._receive)
        self._processes = EngineProcesses.of([self._process.pid], computing=False)

    async def load(self, command: Load, tokenizer: asyncio.Future[Tokenizer]) -> None:
        """Wait until the model answers; raises ENGINE_FAILED, or ENGINE_DEAD when the process was ended meanwhile."""
        self._process.send(command)
        await asyncio.shield(self._loaded)
        self._tokenizer = await tokenizer

    @property
    def max_model_len(self) -> int:
        """As configured, or the model's own."""
        return self._loaded.result().max_model_len

    @property
    def vocab_size(self) -> int:
        """Size of the embedding."""
        return self._loaded.result().vocab_size

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's own."""
        return self._tokenizer

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return not self._dead and self._process.alive

    async def generate(self, request: EngineRequest) -> AsyncGenerator[Delta, None]:
        """Deltas as the worker makes them; several of an answer that wait are merged into one."""
        if not self.alive:
            raise engine_dead()
        check_request(request)
        queue: Queue = asyncio.Queue()
        self._queues[request.request_id] = queue
        self._unfinished[request.request_id] = request.sampling.n
        self._process.send(request)
        left = request.sampling.n
        try:
            while left:
                for delta in _merged(await _waiting(queue)):
                    left -= delta.finish is not None
                    yield delta
        finally:
            del self._queues[request.request_id]
            self._unfinished.pop(request.request_id, None)
            if left:
                self._process.send(Abort(request.request_id))

    async def stats(self) -> EngineStats:
        """What the worker last reported; it reports after every step and abort."""
        if not self.alive:
            raise engine_dead()
        return self._stats

    @property
    def vitals(self) -> Vitals:
        """By the answers and checks that the worker has not ended, and by its reports."""
        waiting = len(self._unfinished) + len(self._checks)
        return Vitals(waiting, self._steps, self._processes.cpu_seconds() if waiting else 0.0)

    async def check(self) -> None:
        """Whether the worker takes commands; its batch shows by its steps whether it gets on."""
        if not self.alive:
            raise engine_dead()
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._checks.append(answered)
        self._process.send(Check())
        await answered

    async def load_adapter(self, adapter: EngineAdapter) -> None:
        """Refused: its factory says that it takes none."""
        raise FineryError(Reason.UNSUPPORTED, "The transformers engine takes no adapters. Deploy on vLLM.")

    async def unload_adapter(self, adapter: EngineAdapter) -> None:
        """There is none."""

    def kill(self) -> None:
        """SIGKILL; the end of its connection then ends all requests."""
        self._process.kill()

    async def shutdown(self) -> None:
        """End the process."""
        self._die()
        await self._process.end()

    def _receive(self, report: Report | None) -> None:
        match report:
            case Step(deltas, stats):
                self._stats = stats
                self._steps += 1
                for request_id, delta in deltas:
                    self._count(request_id, delta)
                    self._put(request_id, delta)
            case RequestFailed(request_id, detail):
                self._unfinished.pop(request_id, None)
                message = "The engine failed at this request. Try again."
                self._put(request_id, FineryError(Reason.ENGINE_FAILED, message, detail=detail))
            case Alive():
                # Another thread of the worker makes the steps: while there are requests only those count.
                self._steps += not self._unfinished
                answered = self._checks.popleft()
                if not answered.done():
                    answered.set_result(None)
            case Ready():
                # Who waits for a GPU spins: there processor time shows nothing.
                self._processes = replace(self._processes, computing=not report.on_gpu)
                self._settle(report)
            case NotLoaded(reason, message, detail):
                self._settle(FineryError(reason, message, detail=detail))
            case None:
                self._die()

    def _count(self, request_id: str, delta: Delta) -> None:
        if delta.finish is not None and request_id in self._unfinished:
            self._unfinished[request_id] -= 1
            if not self._unfinished[request_id]:
                del self._unfinished[request_id]

    def _put(self, request_id: str, what: Delta | FineryError) -> None:
        queue = self._queues.get(request_id)
        if queue is not None:
            queue.put_nowait(what)

    def _settle(self, outcome: Ready | FineryError) -> None:
        if self._loaded.done():
            return
        if isinstance(outcome, Ready):
            self._loaded.set_result(outcome)
        else:
            self._loaded.set_exception(outcome)

    def _die(self) -> None:
        self._dead = True
        self._settle(engine_dead("the engine's process has ended"))
        # Whoever would have waited for the exception may be gone.
        self._loaded.exception()
        for queue in self._queues.values():
            queue.put_nowait(engine_dead())
        while self._checks:
            answered = self._checks.popleft()
            if not answered.done():
                answered.set_exception(engine_dead())


async def _waiting(queue: Queue) -> list[Delta]:
    """All that waits, at least one delta; raises an error when nothing comes before it."""
    deltas: list[Delta] = []
    while not deltas or not queue.empty():
        what = await queue.get()
        if isinstance(what, FineryError):
            if not deltas:
                raise what
            queue.put_nowait(what)
            return deltas
        deltas.append(what)
    return deltas


def _merged(deltas: list[Delta]) -> list[Delta]:
    """One delta for each answer among these."""
    by_answer: dict[int, Delta] = {}
    for delta in deltas:
        earlier = by_answer.get(delta.index)
        if earlier is not None:
            ids = [*earlier.token_ids, *delta.token_ids]
            logprobs = [*earlier.logprobs, *delta.logprobs]
            delta = Delta(delta.index, earlier.text + delta.text, ids, delta.finish, earlier.cached_tokens, logprobs)
        by_answer[delta.index] = delta
    return list(by_answer.values())
