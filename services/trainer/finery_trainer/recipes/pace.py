"""How fast a run is, and how much memory it takes."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable

import torch


class Pace:
    """Counts tokens against the time spent in steps; evaluating and saving don't count.

    ``tokens`` gives how many tokens were trained on so far, on all ranks; ``clock`` gives seconds.
    """

    def __init__(self, tokens: Callable[[], int], clock: Callable[[], float] = time.monotonic) -> None:
        self._tokens = tokens
        self._clock = clock
        self._began = clock()
        self._seconds = 0.0
        self._counted = 0

    def step_begins(self) -> None:
        """Called before the forward pass."""
        self._began = self._clock()

    def step_ends(self) -> None:
        """Called after the optimizer's step."""
        self._seconds += self._clock() - self._began

    def figures(self) -> dict[str, float]:
        """Tokens a second since the last call, and the most memory that was taken, in GiB."""
        tokens = self._tokens()
        figures = {"memory_gib": peak_memory() / 2**30}
        if self._seconds > 0:
            figures["tokens_per_second"] = (tokens - self._counted) / self._seconds
        self._counted, self._seconds = tokens, 0.0
        return figures


def peak_memory() -> int:
    """Bytes: of all visible GPUs together, without one those of the process."""
    if torch.cuda.is_available():
        return sum(torch.cuda.max_memory_allocated(gpu) for gpu in range(torch.cuda.device_count()))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
