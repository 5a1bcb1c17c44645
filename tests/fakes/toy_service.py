"""A service around the real job engine, whose jobs are the toy worker's. `python -m tests.fakes.toy_service STATE`."""

import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from finery.artifacts.v1.artifacts_pb2 import Artifact
from finery.trainer.v1 import trainer_pb2 as pb
from finery.trainer.v1.trainer_pb2_grpc import TrainerServiceServicer, add_TrainerServiceServicer_to_server
from finery_shared.home import announce
from finery_shared.jobs.engine import JobEngine
from finery_shared.jobs.executor import Executor, LocalExecutor
from finery_shared.jobs.metrics import JobCollector, JobCounters
from finery_shared.jobs.patience import EngineSettings
from finery_shared.jobs.publication import Published
from finery_shared.jobs.schema import open_sqlite
from finery_shared.jobs.servicer import worker_servicer
from finery_shared.jobs.store import JobStore
from finery_shared.log import logger
from finery_shared.rpc import RpcSecurity, RpcServer, Servicer
from finery_shared.rpc.process import run_process

ROOT = Path(__file__).parents[2]


class ToyKind:
    def environment(self, spec: bytes) -> Mapping[str, str]:
        return {}

    def ranks(self, spec: bytes) -> int:
        return 0

    def replaces_output(self, spec: bytes) -> bool:
        return False

    def output(self, published: list[Published], figures: Mapping[str, float]) -> bytes:
        return published[0].artifact.SerializeToString() if published else Artifact().SerializeToString()


class ToyJobs(TrainerServiceServicer):
    """Toy jobs, called training jobs so that the client can watch them."""

    def __init__(self, engine: JobEngine, store: JobStore) -> None:
        self._engine = engine
        self._store = store

    async def GetTrainingJob(self, request: pb.GetTrainingJobRequest, context: Any) -> pb.GetTrainingJobResponse:
        status = self._store.get(request.name).status
        return pb.GetTrainingJobResponse(training_job=pb.TrainingJob(name=request.name, status=status))

    async def WatchTrainingJob(
        self, request: pb.WatchTrainingJobRequest, context: Any
    ) -> AsyncIterator[pb.WatchTrainingJobResponse]:
        async for event in self._engine.watch(request.name, request.resume_token):
            yield pb.WatchTrainingJobResponse(event=event)

    def entry(self) -> Servicer:
        name = pb.DESCRIPTOR.services_by_name["TrainerService"].full_name
        return Servicer(name, add_TrainerServiceServicer_to_server, self)


class ToyExecutor(LocalExecutor):
    def __init__(self, state: Path, environment: Mapping[str, str] | None = None) -> None:
        variables = {"PYTHONPATH": str(ROOT), **(environment or {})}
        super().__init__("tests.fakes.toy_worker", state, environment=variables)


class ToyService:
    def __init__(
        self,
        state: Path,
        settings: EngineSettings | None = None,
        *,
        executor: Executor | None = None,
        clock: Callable[[], float] = time.monotonic,
        security: RpcSecurity | None = None,
    ) -> None:
        self.registry = CollectorRegistry()
        security = security or RpcSecurity()
        self.store = JobStore(open_sqlite(state / "jobs.db"), "toys")
        executor = executor or ToyExecutor(state, security.environment)
        self.endpoint = state / "endpoint.json"
        self.registry.register(JobCollector(self.store))
        counters = JobCounters(self.registry)
        self.engine = JobEngine(
            self.store, executor, ToyKind(), state, self.endpoint, settings, clock=clock, counters=counters
        )
        servicers = [worker_servicer(self.engine), ToyJobs(self.engine, self.store).entry()]
        self.server = RpcServer("127.0.0.1:0", servicers, logger("toy"), self.registry, security)

    async def start(self) -> str:
        address = await self.server.start()
        announce(self.endpoint, "toy", address)
        await self.engine.start()
        return address

    async def stop(self) -> None:
        await self.engine.stop()
        await self.server.stop(1)


if __name__ == "__main__":
    state = Path(sys.argv[1])
    sys.exit(run_process("toy", lambda: ToyService(state), lambda: state / "ready.json"))
