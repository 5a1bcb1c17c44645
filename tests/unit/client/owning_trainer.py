"""A scripted trainer that owns its jobs as the real one does: a second one with the same FINERY_HOME is refused.

A process: `python -m tests.unit.client.owning_trainer`.
"""

import os
import sys
from pathlib import Path

import grpc

from finery_shared.home import Home
from finery_shared.jobs.ownership import OwnerLock
from finery_shared.rpc.process import run_process
from tests.fakes.scripted_trainer import ScriptedTrainer, serve


class OwningTrainer:
    """A `finery_shared.rpc.process.Application`."""

    def __init__(self) -> None:
        self._lock = OwnerLock(Home.from_env().service("trainer"))
        self._trainer = ScriptedTrainer()
        self._trainer.queue("trainingJobs/1")
        self._server: grpc.Server | None = None

    async def start(self) -> str:
        self._lock.acquire()
        self._server, address = serve(self._trainer)
        return address

    async def stop(self) -> None:
        if self._server is not None:
            self._server.stop(0.2).wait()
        self._lock.release()


if __name__ == "__main__":
    sys.exit(run_process("trainer", OwningTrainer, lambda: Path(os.environ["FINERY_TRAINER_ANNOUNCE"])))
