"""Wires the service: the only place that picks real implementations."""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry

from finery_shared.datasets.hubs import hubs_from as dataset_hubs_from
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
from finery_trainer.kind import TrainingKind
from finery_trainer.planning import Planner
from finery_trainer.servicer import trainer_servicer
from finery_trainer.settings import TrainerSettings

WORKER = "finery_trainer.worker"

CANCEL_GRACE = 120.0
"""Seconds: a worker that was told to stop ends its step, saves a checkpoint, and has it checked."""


class TrainerApplication:
    """The trainer service, wired and ready to start."""

    def __init__(
        self, settings: TrainerSettings, *, worker: str = WORKER, engine_settings: EngineSettings | None = None
    ) -> None:
        self._settings = settings
        registry = CollectorRegistry()
        state = Home(settings.home).service("trainer")
        self._endpoint = state / "endpoint.json"
        store = JobStore(open_sqlite(state / "jobs.db"), "trainingJobs")
        registry.register(JobCollector(store))
        executor = LocalExecutor(worker, state, environment=settings.worker_environment())
        engine_settings = engine_settings or EngineSettings(
            max_running_jobs=settings.max_running_jobs, cancel_grace=CANCEL_GRACE
        )
        self._engine = JobEngine(
            store,
            executor,
            TrainingKind(),
            state,
            self._endpoint,
            engine_settings,
            accepting=settings.accepting_environment(),
            counters=JobCounters(registry),
        )
        planner = make_planner(settings)
        servicers = [trainer_servicer(self._engine, store, planner), worker_servicer(self._engine)]
        self._server = RpcServer(settings.listen, servicers, logger("trainer"), registry, settings.rpc)
        self._metrics = MetricsEndpoint(settings.metrics_listen, registry, logger("trainer"))

    async def start(self) -> str:
        """Serve and run jobs; returns the address. Raises PORT_IN_USE, ALREADY_RUNNING."""
        address = await self._server.start("FINERY_TRAINER_LISTEN")
        try:
            await self._engine.start()
            self._metrics.start("FINERY_TRAINER_METRICS_LISTEN")
        except BaseException:
            await self._server.stop(0)
            raise
        announce(self._endpoint, "trainer", address)  # not before: another service may own the database
        return address

    async def stop(self) -> None:
        """Stop the workers, drain, end."""
        await self._engine.stop()
        withdraw(self._endpoint)
        await self._server.stop(self._settings.drain_seconds)
        await self._metrics.stop()


def make_planner(settings: TrainerSettings) -> Planner:
    """The planner over the model store and the hubs; the service and its workers use the same."""
    return Planner(
        Home(settings.home).models,
        hubs_from(os.environ),
        dataset_hubs_from(os.environ),
        settings.check_path,
        settings.checked_at_once,
        Home(settings.home).service("trainer") / "cache",
    )
