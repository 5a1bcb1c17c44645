"""Answers that are generated together, by transformers' continuous batching.

The library schedules, keeps the paged key-value cache and runs the model. Its own sampling knows no seed, penalty or
min_p of a single request, so a logits processor chooses here, and leaves the library one token to take.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import GenerationConfig, PreTrainedModel
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
    ContinuousBatchingLogitsProcessorList,
)
from transformers.generation.logits_process import LogitsProcessorList

from finery_inference.engines.protocol import Delta, EngineRequest, EngineStats
from finery_inference.engines.transformers.answer import Answer
from finery_inference.engines.transformers.choice import Chooser
from finery_inference.engines.transformers.messages import RequestFailed, Step
from finery_inference.engines.transformers.text import TextStream

NO_TOKEN = -1
"""What the library takes for a token that ends nothing."""

Tell = Callable[[Step | RequestFailed], None]


class Batch:
    """Generates for any number of requests at a time. ``tell`` is called from a thread of its own."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: Tokenizer, config: ContinuousBatchingConfig, tell: Tell
    ) -> None:
        self._tokenizer = tokenizer
        self._device = model.device
        self._tell = tell
        self._lock = threading.Lock()
        self._answers: dict[str, tuple[Answer, Chooser]] = {}
        self._generated = 0
        greedy = GenerationConfig(do_sample=False, max_new_tokens=None, eos_token_id=NO_TOKEN)
        self._manager = model.init_continuous_batching(greedy, config)
        processors = ContinuousBatchingLogitsProcessorList(LogitsProcessorList([_Choice(self._choose)]))
        processors.tensors_required = 1
        self._manager.logit_processor = processors
        # Makes the cache now: what there is no memory for, or no support, is an error of loading.
        self._manager.warmup()

    def start(self) -> None:
        """Begin to work."""
        self._manager.start()

    def add(self, request: EngineRequest) -> None:
        """Generate the answers to a request."""
        sampling, prompt = request.sampling, list(request.token_ids)
        answers = [
            Answer(request, index, TextStream(self._tokenizer, prompt, sampling.stop)) for index in range(sampling.n)
        ]
        with self._lock:
            self._answers |= {answer.name: (answer, Chooser(answer, self._device)) for answer in answers}
        for answer in answers:
            ends = list(sampling.stop_token_ids) or NO_TOKEN
            self._manager.add_request(
                prompt, request_id=answer.name, max_new_tokens=sampling.max_tokens, eos_token_id=ends
            )

    def abort(self, request_id: str) -> None:
        """Stop the work on a request before the next step; harmless when it is over."""
        with self._lock:
            names = [name for name, (answer, _) in self._answers.items() if answer.request.request_id == request_id]
            for name in names:
                del self._answers[name]
        for name in names:
            self._manager.cancel_request(name)
        self._tell(Step((), self._stats()))

    def follow(self) -> None:
        """Tell of requests that the library gives up; returns when it generates no more."""
        while self._manager.is_running():
            result = self._manager.get_result(timeout=0.5)
            if result is None or result.error is None:
                continue
            with self._lock:
                lost = self._answers.pop(result.request_id, None)
            if lost is not None:
                self._tell(RequestFailed(lost[0].request.request_id, result.error))

    def _choose(self, names: Sequence[str], logits: torch.Tensor) -> torch.Tensor:
        """Choose a token for each row of the logits, tell of them, and return the tokens."""
        likeliest = logits.argmax(-1).tolist()
        deltas: list[tuple[str, Delta]] = []
        for row, name in enumerate(names):
            with self._lock:
                answer, chooser = self._answers.get(name, (None, None))
            if answer is None or chooser is None:  # aborted since this step began
                continue
            request_id, position = answer.request.request_id, None
            try:
                if not chooser.plain:
                    likeliest[row] = chooser.choose(logits[row])
                    position = chooser.position(likeliest[row], logits[row])
                deltas.append((request_id, answer.take(likeliest[row], position)))
            except Exception as error:  # the library would end every other request, too
                self._tell(RequestFailed(request_id, repr(error)))
                self.abort(request_id)
                continue
            if answer.finish is not None:
                self._end(answer)
        self._generated += len(deltas)
        self._tell(Step(tuple(deltas), self._stats()))
        return torch.tensor(likeliest, device=logits.device)

    def _end(self, answer: Answer) -> None:
        with self._lock:
            self._answers.pop(answer.name, None)
        if answer.text.stopped:  # the library knows the tokens that end an answer, and its length, but no texts
            self._manager.cancel_request(answer.name)

    def _stats(self) -> EngineStats:
        with self._lock:
            made = Counter[str]()
            for answer, _ in self._answers.values():
                made[answer.request.request_id] += len(answer.tokens)
        running = sum(tokens > 0 for tokens in made.values())
        return EngineStats(running, len(made) - running, self._cache_usage(), self._generated)

    def _cache_usage(self) -> float:
        processor = self._manager.batch_processor
        if processor is None:
            return 0.0
        return 1.0 - float(processor.cache.compute_free_capacity(relative=True))


class _Choice(ContinuousBatchingLogitsProcessor):  # type: ignore[misc]  # transformers' types are not followed
    """Hands logits to ``choose`` and leaves each row the chosen token alone."""

    supported_kwargs: dict[str, type] = {}  # noqa: RUF012  # as in the base class
    ignored_kwargs = ()

    def __init__(self, choose: Callable[[Sequence[str], torch.Tensor], torch.Tensor]) -> None:
        self._choose = choose
        self._names: list[str] = []

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        """There is no value to fill in."""
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: Sequence[Any]) -> torch.Tensor:
        """Note the requests of the step that comes, in the order of its rows."""
        self._names = [request.state.request_id for request in requests_with_new_token]
        return torch.zeros(len(self._names), dtype=torch.int32)

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        """Logits of shape [rows, vocabulary] to the same with one token each."""
        if not self._names:
            return scores
        tokens = self._choose(self._names, scores)
        return torch.full_like(scores, -torch.inf).scatter_(-1, tokens.unsqueeze(-1), 0.0)


def batching(cache_tokens: int | None, max_model_len: int, gpu_share: float | None, extra: Any) -> Any:
    """The library's configuration. ``cache_tokens``: tokens that the cache is to hold; None takes a share of the GPU.

    Steps are computed one after another, without graphs: tokens are chosen on the host.
    """
    page = 16 if cache_tokens is not None else 256
    wanted = None if cache_tokens is None else math.ceil(max(cache_tokens, max_model_len) / page) + 1
    return ContinuousBatchingConfig(
        page_size=page,
        num_blocks=wanted,
        max_batch_tokens=extra.get("max_num_batched_tokens") or (256 if cache_tokens is not None else None),
        max_requests_per_batch=extra.get("max_num_seqs"),
        max_memory_percent=gpu_share,
        allow_block_sharing=extra.get("enable_prefix_caching", True),
        use_async_batching=False,
        use_cuda_graph=False,
        # Would fetch kernels, which are code, from a hub.
        auto_switch_to_flash=False,
        max_blocks_per_request=0,
    )
