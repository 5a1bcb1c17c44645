"""Wires the service: the only place that picks real implementations."""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry

from finery_quantizer.kind import ExportKind
from finery_quantizer.planning import Planner
from finery_quantizer.servicer import quantizer_servicer
from finery_quantizer.settings import QuantizerSettings
from finery_shared.home import Home, announce, withdraw
from finery_shared.jobs.engine import JobEngine
from finery_shared.jobs.executor import LocalExecutor
from finery_shared.jobs.metrics import JobCollector, JobCounters
from finery_shared.jobs.patience import EngineSettings
from finery_shared.jobs.schema import open_sqlite
from finery_shared.jobs.servicer import worker_servicer
from finery_shared.jobs.store import JobStore
from finery_shared.log import logger
from finery_shared.metrics import MetricsEndpoint
from finery_shared.models import hubs_from
from finery_shared.rpc import RpcServer

WORKER = "finery_quantizer.worker"


class QuantizerApplication:
    """The quantizer service, wired and ready to start."""

    def __init__(
        self, settings: QuantizerSettings, *, worker: str = WORKER, engine_settings: EngineSettings | None = None
    ) -> None:
        self._settings = settings
        registry = CollectorRegistry()
        state = Home(settings.home).service("quantizer")
        self._endpoint = state / "endpoint.json"
        store = JobStore(open_sqlite(state / "jobs.db"), "exportJobs")
        registry.register(JobCollector(store))
        executor = LocalExecutor(worker, state, environment=_worker_environment(settings))
        engine_settings = engine_settings or EngineSettings(max_running_jobs=settings.max_running_jobs)
        self._engine = JobEngine(
            store,
            executor,
            ExportKind(),
            state,
            self._endpoint,
            engine_settings,
            accepting=settings.accepting_environment(),
            counters=JobCounters(registry),
        )
        planner = make_planner(settings)
        servicers = [quantizer_servicer(self._engine, store, planner), worker_servicer(self._engine)]
        self._server = RpcServer(settings.listen, servicers, logger("quantizer"), registry, settings.rpc)
        self._metrics = MetricsEndpoint(settings.metrics_listen, registry, logger("quantizer"))

    async def start(self) -> str:
        """Serve and run jobs; returns the address. Raises PORT_IN_USE, ALREADY_RUNNING."""
        address = await self._server.start("FINERY_QUANTIZER_LISTEN")
        try:
            await self._engine.start()
            self._metrics.start("FINERY_QUANTIZER_METRICS_LISTEN")
        except BaseException:
            await self._server.stop(0)
            raise
        announce(self._endpoint, "quantizer", address)  # not before: another service may own the database
        return address

    async def stop(self) -> None:
        """Stop the workers, drain, end."""
        await self._engine.stop()
        withdraw(self._endpoint)
        await self._server.stop(self._settings.drain_seconds)
        await self._metrics.stop()


def make_planner(settings: QuantizerSettings) -> Planner:
    """The planner over the model store and both hubs; the service and its workers use the same."""
    return Planner(Home(settings.home).models, hubs_from(os.environ), settings.check_path)


def _worker_environment(settings: QuantizerSettings) -> dict[str, str]:
    """What the workers are told."""
    return {"FINERY_HOME": str(settings.home), **settings.rpc.environment, **settings.environment()}
