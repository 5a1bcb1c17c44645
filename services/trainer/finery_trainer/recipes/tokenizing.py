"""Conversations to tokenized rows, by as many processes as there are cores when there is enough to do."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from finery_shared.datasets import Conversation
from finery_trainer.recipes.rows import Fitted, LeftOut, TruncationStrategy, fit

CHUNK = 256
"""Rows that a process takes at a time."""

WORTH_PROCESSES = 16_000
"""Rows that have to be spared this process for others to pay: they take about ten seconds to start."""


@dataclass(frozen=True)
class Tokenizing:
    """How rows are made: the tokenizer's directory, the most tokens, and what becomes of longer rows."""

    tokenizer: Path
    max_length: int
    strategy: TruncationStrategy

    def load(self) -> _Tokenize:
        """A function from chunks to rows, the tokenizer loaded."""
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self.tokenizer, local_files_only=True)
        return _Tokenize(tokenizer, self.max_length, self.strategy)


class _Tokenize:
    def __init__(self, tokenizer: Any, max_length: int, strategy: TruncationStrategy) -> None:
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._strategy: TruncationStrategy = strategy

    def __call__(self, chunk: Sequence[Conversation]) -> list[Fitted | LeftOut]:
        return [fit(self._tokenizer, row, self._max_length, self._strategy) for row in chunk]


def processes_for(rows: int) -> int:
    """How many processes tokenize so many rows; 1 is this one."""
    cores = len(os.sched_getaffinity(0))
    return cores if rows - rows // cores >= WORTH_PROCESSES else 1


def tokenize(
    how: Tokenizing, rows: Iterable[Conversation], processes: int, tick: Callable[[int], None] = lambda _done: None
) -> Iterator[Fitted | LeftOut]:
    """Tokenize rows in their order. ``tick`` is called with the number of rows done; what it raises ends the work."""
    chunks = _chunks(rows)
    results = map(how.load(), chunks) if processes == 1 else _in_processes(how, chunks, processes)
    done = 0
    for result in results:
        yield from result
        done += len(result)
        tick(done)


def _chunks(rows: Iterable[Conversation]) -> Iterator[list[Conversation]]:
    rest = iter(rows)
    while chunk := list(islice(rest, CHUNK)):
        yield chunk


def _in_processes(
    how: Tokenizing, chunks: Iterator[list[Conversation]], processes: int
) -> Iterator[list[Fitted | LeftOut]]:
    """Hand chunks to a pool, a few ahead of the one that is due.

    The pool's processes are forked from a server that was started afresh: this process has threads of gRPC, perhaps of
    CUDA too, which don't survive a fork.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "transformers.models.auto.tokenization_auto"])
    pool = ProcessPoolExecutor(processes, context)
    try:
        pending: deque[Future[list[Fitted | LeftOut]]] = deque()
        for chunk in chunks:
            pending.append(pool.submit(_work, how, chunk))
            if len(pending) > 2 * processes:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _work(how: Tokenizing, chunk: Sequence[Conversation]) -> list[Fitted | LeftOut]:
    return _loaded(how)(chunk)


@lru_cache(maxsize=1)
def _loaded(how: Tokenizing) -> _Tokenize:
    """Loaded once in each process of a pool."""
    return how.load()
