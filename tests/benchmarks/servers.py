"""Finery's serving processes for measurements: started, watched, stopped."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from finery.inference.v1.deployments_pb2 import (
    DEPLOYMENT_STATE_FAILED,
    DEPLOYMENT_STATE_READY,
    CreateDeploymentRequest,
    DeploymentSpec,
    ListDeploymentsRequest,
)
from finery.inference.v1.deployments_pb2_grpc import DeploymentServiceStub
from finery_shared.home import announced
from finery_shared.rpc import open_sync_channel

ROOT = Path(__file__).parents[2]


class Server:
    """One service, with the processes below it."""

    def __init__(self, name: str, popen: subprocess.Popen[bytes], announcement: Path, log: Path) -> None:
        self.name = name
        self._popen = popen
        self._announcement = announcement
        self._log = log

    def address(self) -> str:
        """Where it serves, once it does."""
        wait_for(lambda: self.ended or announced(self._announcement) is not None, f"the {self.name}", 120)
        entry = announced(self._announcement)
        if entry is None:
            raise SystemExit(self._log.read_text())
        return entry.address

    @property
    def ended(self) -> bool:
        """Whether the process is gone."""
        return self._popen.poll() is not None

    def cpu_seconds(self) -> float:
        """CPU time of all its processes so far."""
        return sum(sum(process.cpu_times()[:2]) for process in self._family())

    def busiest_thread_seconds(self) -> float:
        """CPU time so far of the thread that took most: of an event loop, if the process has one."""
        threads = [thread for process in self._family() for thread in process.threads()]
        return max(thread.user_time + thread.system_time for thread in threads)

    def resident_bytes(self) -> int:
        """Resident memory of all its processes."""
        return sum(process.memory_info().rss for process in self._family())

    def stop(self) -> None:
        """End it."""
        self._popen.terminate()
        try:
            self._popen.wait(30)
        except subprocess.TimeoutExpired:
            self._popen.kill()

    def _family(self) -> list[psutil.Process]:
        root = psutil.Process(self._popen.pid)
        return [root, *root.children(recursive=True)]


class Servers:
    """All services of one measurement."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.all: list[Server] = []

    def inference(self, python: str, **environment: str) -> Server:
        """An inference process."""
        settings = {"FINERY_INFERENCE_LISTEN": "127.0.0.1:0", "FINERY_INFERENCE_INSTANCE": str(len(self.all))}
        return self._start("inference", python, "FINERY_INFERENCE_ANNOUNCE", settings | environment)

    def gateway(self, *backends: Server, python: str = sys.executable, workers: int = 1, **environment: str) -> Server:
        """A gateway in front of inference processes."""
        settings = {
            "FINERY_GATEWAY_LISTEN": "127.0.0.1:0",
            "FINERY_GATEWAY_WORKERS": str(workers),
            "FINERY_INFERENCE": ",".join(backend.address() for backend in backends),
        }
        return self._start("gateway", python, "FINERY_GATEWAY_ANNOUNCE", settings | environment)

    def _start(self, service: str, python: str, announce: str, settings: dict[str, str]) -> Server:
        name = f"{service}-{len(self.all)}"
        announcement, log = self.directory / f"{name}.json", self.directory / f"{name}.log"
        home = {"FINERY_HOME": str(self.directory / "home"), announce: str(announcement)}
        with log.open("wb") as file:
            command = [python, "-m", f"finery_{service}"]
            popen = subprocess.Popen(
                command, cwd=ROOT, env=os.environ | home | settings, stdout=file, stderr=subprocess.STDOUT
            )
        self.all.append(Server(name, popen, announcement, log))
        return self.all[-1]


@contextmanager
def servers() -> Iterator[Servers]:
    """Services that end with the block."""
    with tempfile.TemporaryDirectory() as directory:
        started = Servers(Path(directory))
        try:
            yield started
        finally:
            for server in reversed(started.all):
                server.stop()


def deploy(inference: Server, model: Path, name: str, **spec: Any) -> None:
    """Have an inference process serve a model; returns when it does."""
    wish = DeploymentSpec(model={"model_id_or_path": str(model)}, served_model_name=name, **spec)
    with open_sync_channel(inference.address()) as channel:
        stub = DeploymentServiceStub(channel)
        stub.CreateDeployment(CreateDeploymentRequest(spec=wish), timeout=60)

        def settled() -> bool:
            deployment = stub.ListDeployments(ListDeploymentsRequest(), timeout=10).deployments[0]
            if deployment.state == DEPLOYMENT_STATE_FAILED:
                raise SystemExit(deployment.error.message)
            return bool(deployment.state == DEPLOYMENT_STATE_READY)

        wait_for(settled, name, 600)


def wait_for(condition: Callable[[], bool], what: str, seconds: float) -> None:
    """Wait; ends the program when it takes too long."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(0.05)
