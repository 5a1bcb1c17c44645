"""What is told of the deployments: read when Prometheus asks, nothing is done per request."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from finery_inference.deployments.manager import DeploymentManager
from finery_inference.deployments.model import Deployment, State
from finery_inference.engines.protocol import EngineStats
from finery_shared.errors import FineryError

PATIENCE = 2.0
"""Seconds that the event loop may take to answer, before a scrape goes without the engines' figures."""

Figures = list[tuple[Deployment, EngineStats | None]]


class DeploymentCollector(Collector):
    """Deployments by state, and the engines' own figures.

    Made in the event loop that the deployments live in, and asked by threads.
    """

    def __init__(self, manager: DeploymentManager) -> None:
        self._manager = manager
        self._loop = asyncio.get_running_loop()

    def collect(self) -> Iterator[Metric]:
        """The figures as they are now."""
        figures = self._ask(self._read) or []
        yield _states(deployment for deployment, _ in figures)
        restarts = CounterMetricFamily(
            "finery_inference_engine_restarts",
            "Times that a dead engine was started again.",
            labels=["model"],
        )
        running = _gauge("requests_running", "Requests that the engine works on.")
        waiting = _gauge("requests_waiting", "Requests that wait for room in the engine.")
        cache = _gauge("kv_cache_usage_ratio", "Share of the key-value cache that is in use, from 0 to 1.")
        generated = CounterMetricFamily(
            "finery_inference_generated_tokens", "Tokens that the present engine has made.", labels=["model"]
        )
        for deployment, stats in figures:
            labels = [deployment.record.model_id]
            restarts.add_metric(labels, deployment.restarts)
            if stats is not None:
                running.add_metric(labels, stats.running)
                waiting.add_metric(labels, stats.waiting)
                cache.add_metric(labels, stats.kv_cache_usage)
                generated.add_metric(labels, stats.generated_tokens)
        yield from (restarts, running, waiting, cache, generated)

    def _ask(self, read: Callable[[], Coroutine[Any, Any, Figures]]) -> Figures | None:
        """What the event loop answers; None if it is too busy, or has ended."""
        if self._loop.is_closed():
            return None
        asked = asyncio.run_coroutine_threadsafe(read(), self._loop)
        try:
            return asked.result(PATIENCE)
        except TimeoutError:
            asked.cancel()
            return None

    async def _read(self) -> Figures:
        # Of two deployments of one model id, one is on its way out: the newer one is told of.
        newest = {deployment.record.model_id: deployment for deployment in self._manager.list()}
        return [(deployment, await self._stats(deployment)) for deployment in newest.values()]

    async def _stats(self, deployment: Deployment) -> EngineStats | None:
        try:
            return await self._manager.named(deployment.record.name).engine.stats()
        except FineryError:
            return None  # it is loading, or has failed: its state says so


def _states(deployments: Iterator[Deployment]) -> Metric:
    family = GaugeMetricFamily("finery_inference_deployments", "Deployments by state.", labels=["state"])
    counts = Counter(deployment.state for deployment in deployments)
    for state in State:
        family.add_metric([state.value], counts[state])
    return family


def _gauge(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"finery_inference_{name}", text, labels=["model"])
