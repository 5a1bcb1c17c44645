"""Passes recorded as CUDA graphs: one launch instead of thousands, whose making takes longer than a small pass runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Key = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class _Recorded:
    graph: Any
    inputs: dict[str, Tensor]
    loss: Tensor


class PassGraphs:
    """Forward and backward passes of one process, recorded once for each shape of their inputs, then replayed.

    ``compute`` makes a pass and gives its loss; gradients gather in buffers of this object that `attach` hands to the
    parameters, since a graph writes where it was recorded to write. All graphs share their memory: they run in turn.
    At most ``most`` shapes are kept.
    """

    def __init__(self, compute: Callable[[Mapping[str, Any]], Tensor], parameters: Sequence[Any], most: int) -> None:
        self._compute = compute
        self._parameters = parameters
        self._gradients = [torch.zeros_like(parameter) for parameter in parameters]
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream()
        self._recorded: dict[Key, _Recorded] = {}
        self._most = most
        self.seconds = 0.0
        """Time spent on recording."""

    def attach(self) -> None:
        """Begin a step: gradients are zero, and the parameters' own."""
        torch._foreach_zero_(self._gradients)
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient

    def run(self, batch: Mapping[str, Any]) -> Tensor:
        """The loss of a pass over a batch in host memory."""
        key = tuple((name, tuple(v.shape) if isinstance(v, Tensor) else v) for name, v in sorted(batch.items()))
        found = self._recorded.pop(key, None)
        if found is None:
            if len(self._recorded) >= self._most:
                torch.cuda.synchronize()
                del self._recorded[next(iter(self._recorded))]  # the one that wasn't used for longest
            began = time.perf_counter()
            found = self._record(batch)
            self.seconds += time.perf_counter() - began
        self._recorded[key] = found
        for name, value in found.inputs.items():
            value.copy_(batch[name], non_blocking=True)
        found.graph.replay()
        return found.loss.clone()

    def _record(self, batch: Mapping[str, Any]) -> _Recorded:
        if not self._recorded:
            torch.cuda.empty_cache()  # the graphs' memory is their own, and what was cached before can't be theirs
        inputs = {name: v.to("cuda") for name, v in batch.items() if isinstance(v, Tensor)}
        graph = torch.cuda.CUDAGraph()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            loss = self._compute({**batch, **inputs})
            graph.capture_end()
        torch.cuda.current_stream().wait_stream(self._stream)
        return _Recorded(graph, inputs, loss)
