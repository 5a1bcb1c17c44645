"""The figures that vLLM's scheduler reports."""

from __future__ import annotations

from typing import Any

from vllm.config import VllmConfig
from vllm.v1.metrics.loggers import StatLoggerBase
from vllm.v1.metrics.stats import IterationStats, SchedulerStats

from finery_inference.engines.protocol import EngineStats


class StatsRecorder:
    """Keeps the last figures of one engine."""

    def __init__(self) -> None:
        self.stats = EngineStats(0, 0, 0.0, 0)
        self.reports = 0
        """How many there were: one for every step of the scheduler."""

    def factory(self, config: VllmConfig, engine_index: int) -> StatLoggerBase:
        """What vLLM asks for a stat logger by."""
        return _Logger(config, engine_index, self)

    def record(self, scheduler: SchedulerStats | None, iteration: IterationStats | None) -> None:
        """Take one report in."""
        self.reports += 1
        last = self.stats
        generated = last.generated_tokens + (iteration.num_generation_tokens if iteration else 0)
        if scheduler is None:
            self.stats = EngineStats(last.running, last.waiting, last.kv_cache_usage, generated)
            return
        waiting = scheduler.num_waiting_reqs + scheduler.num_skipped_waiting_reqs
        self.stats = EngineStats(scheduler.num_running_reqs, waiting, scheduler.kv_cache_usage, generated)


class _Logger(StatLoggerBase):  # type: ignore[misc]  # vLLM's types are not followed
    def __init__(self, vllm_config: VllmConfig, engine_index: int, recorder: StatsRecorder) -> None:
        self._recorder = recorder

    def record(
        self,
        scheduler_stats: SchedulerStats | None,
        iteration_stats: IterationStats | None,
        mm_cache_stats: Any = None,
        engine_idx: int = 0,
    ) -> None:
        self._recorder.record(scheduler_stats, iteration_stats)

    def log_engine_initialized(self) -> None:
        """Nothing to say."""
