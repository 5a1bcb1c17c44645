"""vLLM's AsyncLLM as an engine. The engine itself runs in processes of its own; see `owner` for how they end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from functools import partial
from typing import Any, cast

from vllm.config import StructuredOutputsConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import VLLMClientError
from vllm.inputs.engine import tokens_input
from vllm.outputs import RequestOutput
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from finery_inference.engines.errors import engine_dead, shape_refused
from finery_inference.engines.processes import EngineProcesses
from finery_inference.engines.protocol import (
    Delta,
    EngineAdapter,
    EngineConfig,
    EngineRequest,
    EngineStats,
    Finish,
    Sampling,
    Structured,
    Tokenizer,
    Vitals,
)
from finery_inference.engines.threads import in_daemon_thread, made_in_daemon_thread
from finery_inference.engines.vllm.adapters import VllmAdapters, lora_request
from finery_inference.engines.vllm.arguments import engine_arguments, most_adapters, start_error
from finery_inference.engines.vllm.hardware import Hardware
from finery_inference.engines.vllm.last_words import LastWords
from finery_inference.engines.vllm.logprobs import positions
from finery_inference.engines.vllm.sampling import refused, vllm_sampling
from finery_inference.engines.vllm.stats import StatsRecorder
from finery_shared.errors import FineryError, Reason


class VllmEngine:
    """One AsyncLLM."""

    def __init__(self, llm: AsyncLLM, recorder: StatsRecorder, processes: EngineProcesses, most_adapters: int) -> None:
        self._llm = llm
        self._recorder = recorder
        self._processes = processes
        self._adapters = VllmAdapters(llm, most_adapters)
        self._ending: asyncio.Future[None] | None = None
        self._killed = False
        self._checks_asked = 0
        self._checks_answered = 0

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
        """What vLLM's monitor of its processes says, until they were ended from here."""
        return not (self._ending or self._killed or self._llm.errored)

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
        lora = None if request.adapter is None else lora_request(request.adapter)
        outputs = self._llm.generate(prompt, parameters, request.request_id, lora_request=lora)
        self._adapters.begin(request)
        # AsyncLLM.generate aborts the request in the engine when it is closed or cancelled.
        try:
            async for output in outputs:
                self._adapters.arrived(request)
                for delta in _deltas(output, request.sampling):
                    yield delta
        except EngineDeadError as error:
            raise engine_dead(str(error)) from error
        except (ValueError, VLLMClientError) as error:
            raise refused(error, structured) from error
        finally:
            self._adapters.end(request)
            await outputs.aclose()

    async def load_adapter(self, adapter: EngineAdapter) -> None:
        """Load it in the engine's process, between two steps."""
        await self._adapters.load(adapter)

    async def unload_adapter(self, adapter: EngineAdapter) -> None:
        """End its requests and drop it."""
        await self._adapters.unload(adapter)

    async def stats(self) -> EngineStats:
        """What the scheduler in the engine's process last reported; it reports after every step and abort."""
        if not self.alive:
            raise engine_dead()
        return self._recorder.stats

    @property
    def vitals(self) -> Vitals:
        """By vLLM's count of the requests that its engine has not finished, and by the scheduler's reports."""
        checks = self._checks_asked - self._checks_answered
        waiting = self._llm.get_num_unfinished_requests() + checks
        steps = self._recorder.reports + self._checks_answered
        return Vitals(waiting, steps, self._processes.cpu_seconds() if waiting else 0.0)

    async def check(self) -> None:
        """Ask the engine's process something that it answers between two steps.

        vLLM's own check_health only tells whether the process is there.
        """
        self._checks_asked += 1
        try:
            await self._llm.is_paused()
        except EngineDeadError as error:
            raise engine_dead(str(error)) from error
        finally:
            self._checks_answered += 1

    def kill(self) -> None:
        """SIGKILL to the processes, ENGINE_DEAD to the requests."""
        self._killed = True
        self._processes.kill()
        self._end_requests()

    async def shutdown(self) -> None:
        """End vLLM's processes, within a few seconds; vLLM itself returns at once when it is told again meanwhile."""
        if self._ending is None:
            self._end_requests()
            self._ending = in_daemon_thread(lambda: self._llm.shutdown(5.0), "vllm shutdown")
        await asyncio.shield(self._ending)
        self._end_requests()

    def _end_requests(self) -> None:
        # AsyncLLM.shutdown cancels the task that would tell them, often before it has.
        self._llm.output_processor.propagate_error(EngineDeadError())
        # VLLM itself never ends the calls, as remove_lora, that a dead engine left unanswered.
        for answer in list(self._llm.engine_core.utility_results.values()):
            if not answer.done():
                answer.set_exception(EngineDeadError())


class VllmStarter:
    """Starts vLLM engines on some hardware."""

    def __init__(self, hardware: Hardware) -> None:
        self._hardware = hardware
        self._last_words = LastWords.from_env()

    async def start(self, config: EngineConfig) -> VllmEngine:
        """Load a model. A start that is cancelled goes on in its thread and is undone when it is over."""
        recorder = StatsRecorder()
        self._last_words.forget()
        try:
            build = partial(self._build, config, recorder)
            llm = await made_in_daemon_thread(build, AsyncLLM.shutdown, "vllm start")
        except Exception as error:
            raise start_error(config, error, self._last_words.read()) from error
        cores = llm.engine_core.resources.engine_manager.processes
        processes = EngineProcesses.of([core.pid for core in cores], computing=self._hardware.cpu)
        return VllmEngine(llm, recorder, processes, most_adapters(config, self._hardware))

    def _build(self, config: EngineConfig, recorder: StatsRecorder) -> AsyncLLM:
        # By itself vLLM picks a backend by the request, but an engine keeps the first one and ignores what it can't do.
        # A model that may write spaces between the parts of JSON may never come to an end.
        shapes = StructuredOutputsConfig(backend="xgrammar", disable_any_whitespace=True)
        chosen = engine_arguments(config, self._hardware)
        arguments = AsyncEngineArgs(**chosen, structured_outputs_config=shapes)
        # By it vLLM sizes an engine's batches as for its own server; an engine without context gets small ones.
        context = UsageContext.OPENAI_API_SERVER
        return AsyncLLM.from_engine_args(arguments, usage_context=context, stat_loggers=[recorder.factory])


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
