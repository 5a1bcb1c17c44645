"""A service around the real job engine, whose jobs are the toy worker's. `python -m tests.fakes.toy_service STATE`."""

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from finery.artifacts.v1.artifacts_pb2 import Artifact
from finery_shared.home import announce
from finery_shared.jobs.engine import EngineSettings, JobEngine
from finery_shared.jobs.executor import Executor, LocalExecutor
from finery_shared.jobs.publication import Published
from finery_shared.jobs.schema import open_sqlite
from finery_shared.jobs.servicer import worker_servicer
from finery_shared.jobs.store import JobStore
from finery_shared.log import logger
from finery_shared.rpc import RpcServer
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


class ToyExecutor(LocalExecutor):
    def __init__(self, state: Path) -> None:
        super().__init__("tests.fakes.toy_worker", state, environment={"PYTHONPATH": str(ROOT)})


class ToyService:
    def __init__(
        self,
        state: Path,
        settings: EngineSettings | None = None,
        *,
        executor: Executor | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store = JobStore(open_sqlite(state / "jobs.db"), "toys")
        executor = executor or ToyExecutor(state)
        self.endpoint = state / "endpoint.json"
        self.engine = JobEngine(self.store, executor, ToyKind(), state, self.endpoint, settings, clock=clock)
        self.server = RpcServer("127.0.0.1:0", [worker_servicer(self.engine)], logger("toy"))

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
