"""The trainer service with real workers, and what a client sees of it."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Protocol

import grpc

from finery.jobs.v1.jobs_pb2 import JobEvent
from finery.trainer.v1 import trainer_pb2 as pb
from finery.trainer.v1.trainer_pb2_grpc import TrainerServiceStub
from finery_shared.home import announced
from finery_shared.rpc import open_channel
from finery_trainer.bootstrap import WORKER, TrainerApplication
from finery_trainer.settings import TrainerSettings

DEADLINE = 400.0
ROOT = Path(__file__).parents[3]
QUESTIONS = 12
"""Of the identity score, asked after each job: enough to have some of every kind."""


class Service(Protocol):
    """A trainer that can be started and stopped."""

    async def start(self) -> str:
        """Serve; the address."""

    async def stop(self) -> None:
        """End."""


class ServiceProcess:
    """The service as a process of its own, which can be killed and started again on the same home."""

    def __init__(self, root: Path, readable: list[Path], **environment: str) -> None:
        self._announcement = root / "trainer.json"
        self._log = root / "trainer.log"
        self._environment = {
            **os.environ,
            "FINERY_HOME": str(root / "home"),
            "FINERY_TRAINER_LISTEN": "127.0.0.1:0",
            "FINERY_TRAINER_ANNOUNCE": str(self._announcement),
            "FINERY_TRAINER_ALLOWED_ROOTS": os.pathsep.join(map(str, (root, *readable))),
            "FINERY_TRAINER_QUESTIONS_ON_CPU": str(QUESTIONS),
            **environment,
        }
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> str:
        """Start the process and wait until it serves."""
        with self._log.open("ab") as log:
            command = [sys.executable, "-m", "finery_trainer"]
            self._process = subprocess.Popen(command, env=self._environment, stderr=log)
        until = time.monotonic() + 60
        while time.monotonic() < until:
            found = announced(self._announcement)
            if found is not None and found.pid == self._process.pid:
                return found.address
            assert self._process.poll() is None, self._log.read_text()
            await asyncio.sleep(0.05)
        raise AssertionError(f"no service within a minute: {self._log.read_text()}")

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    async def stop(self) -> None:
        """SIGTERM, and wait."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            await asyncio.to_thread(self._process.wait, 60)


def application(root: Path, readable: list[Path], worker: str = WORKER) -> TrainerApplication:
    """The service in this process."""
    settings = TrainerSettings(
        listen="127.0.0.1:0", home=root / "home", allowed_roots=(root, *readable), questions_on_cpu=QUESTIONS
    )
    return TrainerApplication(settings, worker=worker)


class Trainer:
    """A client of one service."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._channel: grpc.aio.Channel | None = None

    async def start(self) -> None:
        """Start the service and connect."""
        self._channel = open_channel(await self._service.start())
        self._stub = TrainerServiceStub(self._channel)

    async def stop(self) -> None:
        """Disconnect and stop the service."""
        await self.disconnect()
        await self._service.stop()

    async def disconnect(self) -> None:
        """Close the channel."""
        if self._channel is not None:
            await self._channel.close()

    async def create(self, spec: pb.TrainingSpec) -> str:
        """Create a job; its name."""
        request = pb.CreateTrainingJobRequest(spec=spec)
        return (await self._stub.CreateTrainingJob(request)).training_job.name

    async def events(self, name: str, token: str = "") -> AsyncIterator[JobEvent]:
        """What happens to a job until it ends, heartbeats left out."""
        async with asyncio.timeout(DEADLINE):
            request = pb.WatchTrainingJobRequest(name=name, resume_token=token)
            async for response in self._stub.WatchTrainingJob(request):
                if not response.event.HasField("heartbeat"):
                    yield response.event

    async def finished(self, name: str) -> pb.TrainingJob:
        """The job once it has ended."""
        async for _ in self.events(name):
            pass
        return (await self._stub.GetTrainingJob(pb.GetTrainingJobRequest(name=name))).training_job

    async def cancel(self, name: str) -> None:
        """Ask a job to stop."""
        await self._stub.CancelTrainingJob(pb.CancelTrainingJobRequest(name=name))

    async def metrics(self, name: str) -> list[Any]:
        """All that a job has measured."""
        response = await self._stub.ListTrainingMetrics(pb.ListTrainingMetricsRequest(name=name))
        return list(response.metrics)
