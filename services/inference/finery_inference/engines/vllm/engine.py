"""vLLM's AsyncLLM as an engine. The engine itself runs in processes of its own; see `owner` for how they end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, cast

from vllm.config import StructuredOutputsConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import VLLMClientError
from vllm.inputs.engine import tokens_input
from vllm.outputs import RequestOutput
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from finery_inference.engines.errors import engine_dead, shape_refused
from finery_inference.engines.protocol import (
    Delta,
    EngineConfig,
    EngineRequest,
    EngineStats,
    Finish,
    Sampling,
    Structured,
    Tokenizer,
)
from finery_inference.engines.threads import in_daemon_thread
from finery_inference.engines.vllm.arguments import engine_arguments, start_error
from finery_inference.engines.vllm.hardware import Hardware
from finery_inference.engines.vllm.last_words import LastWords
from finery_inference.engines.vllm.logprobs import positions
from finery_inference.engines.vllm.sampling import refused, vllm_sampling
from finery_inference.engines.vllm.stats import StatsRecorder
from finery_shared.errors import FineryError, Reason


class VllmEngine:
    """One AsyncLLM."""

    def __init__(self, llm: AsyncLLM, recorder: StatsRecorder) -> None:
        self._llm = llm
        self._recorder = recorder
        self._down = False

    @property
    def max_model_len(self) -> int:
        """As configured, or as much as the key-value cache holds."""
        return int(self._llm.model_config.max_model_len)

    @property
    def vocab_size(self) -> int:
        """Size of the embedding."""
        return int(self._llm.model_config.get_vocab_size())

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's own."""
        return cast(Tokenizer, self._llm.get_tokenizer())

    @property
    def alive(self) -> bool:
        """What vLLM's monitor of its processes says."""
        return not (self._down or self._llm.errored)

    async def generate(self, request: EngineRequest) -> AsyncGenerator[Delta, None]:
        """Deltas as vLLM makes them; several that wait are merged into one."""
        if not self.alive:
            raise engine_dead()
        token_ids, structured = list(request.token_ids), request.sampling.structured
        try:
            parameters = vllm_sampling(request.sampling)
        except (TypeError, ValueError, VLLMClientError) as error:
            raise refused(error, structured) from error
        # vLLM checks a prompt that it may still have to render in a thread, and an engine's input in the event loop,
        # where a costly expression would hold up all streams.
        prompt = tokens_input(token_ids) if structured is None else {"prompt_token_ids": token_ids}
        outputs = self._llm.generate(prompt, parameters, request.request_id)
        # AsyncLLM.generate aborts the request in the engine when it is closed or cancelled.
        try:
            async for output in outputs:
                for delta in _deltas(output, request.sampling):
                    yield delta
        except EngineDeadError as error:
            raise engine_dead(str(error)) from error
        except (ValueError, VLLMClientError) as error:
            raise refused(error, structured) from error
        finally:
            await outputs.aclose()

    async def stats(self) -> EngineStats:
        """What the scheduler in the engine's process last reported; it reports after every step and abort."""
        if not self.alive:
            raise engine_dead()
        return self._recorder.stats

    async def shutdown(self) -> None:
        """End vLLM's processes, within a few seconds."""
        if not self._down:
            self._down = True
            await asyncio.to_thread(self._llm.shutdown, 5.0)


class VllmStarter:
    """Starts vLLM engines on some hardware."""

    def __init__(self, hardware: Hardware) -> None:
        self._hardware = hardware
        self._last_words = LastWords.from_env()

    async def start(self, config: EngineConfig) -> VllmEngine:
        """Load a model. A start that is cancelled goes on in its thread and is undone there."""
        recorder = StatsRecorder()
        self._last_words.forget()
        building = in_daemon_thread(lambda: self._build(config, recorder), "vllm start")
        try:
            llm = await asyncio.shield(building)
        except asyncio.CancelledError:
            building.add_done_callback(_discard)
            raise
        except Exception as error:
            raise start_error(config, error, self._last_words.read()) from error
        return VllmEngine(llm, recorder)

    def _build(self, config: EngineConfig, recorder: StatsRecorder) -> AsyncLLM:
        # By itself vLLM picks a backend by the request, but an engine keeps the first one and ignores what it can't do.
        shapes = StructuredOutputsConfig(backend="xgrammar")
        chosen = engine_arguments(config, self._hardware)
        arguments = AsyncEngineArgs(**chosen, structured_outputs_config=shapes)
        return AsyncLLM.from_engine_args(arguments, stat_loggers=[recorder.factory])


def _discard(building: asyncio.Future[AsyncLLM]) -> None:
    if not building.cancelled() and building.exception() is None:
        in_daemon_thread(building.result().shutdown, "vllm discard")


def _deltas(output: RequestOutput, sampling: Sampling) -> list[Delta]:
    cached = output.num_cached_tokens or 0
    return [
        Delta(
            each.index,
            each.text,
            each.token_ids,
            _finish(each.finish_reason, sampling.structured),
            cached,
            positions(each.token_ids, each.logprobs, sampling.logprobs or 0) if each.logprobs else (),
        )
        for each in output.outputs
    ]


def _finish(reason: Any, structured: Structured | None) -> Finish | None:
    if reason is None or reason in ("stop", "length"):
        return cast("Finish | None", reason)
    if reason == "abort":
        raise engine_dead("the engine aborted the request")
    if structured is not None:
        # The engine ends a request so whose grammar it could not compile; its log says why.
        raise shape_refused(structured, "the engine could not compile it; simplify it")
    raise FineryError(Reason.ENGINE_FAILED, "The engine failed at this request. Try again.", detail=str(reason))
