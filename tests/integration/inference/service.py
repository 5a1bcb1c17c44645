"""Inference processes as they are in real life: exec'd, asked by gRPC, killed by signals."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import psutil

from finery.inference.v1 import deployments_pb2 as d
from finery.inference.v1 import deployments_pb2_grpc, inference_pb2_grpc
from finery.inference.v1 import inference_pb2 as i
from finery_shared.home import announced
from finery_shared.rpc import RpcSecurity, from_rpc_error, open_channel


class Service:
    """One running inference process."""

    def __init__(self, popen: subprocess.Popen[bytes], announcement: Path, log: Path) -> None:
        self.popen = popen
        self._announcement = announcement
        self.log = log

    def address(self, seconds: float = 60) -> str:
        """Where it serves, once it does."""
        deadline = time.monotonic() + seconds
        while (entry := announced(self._announcement)) is None or entry.pid != self.popen.pid:
            assert self.popen.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)
        return entry.address

    def engines(self) -> list[psutil.Process]:
        """The engine's processes."""
        children = psutil.Process(self.popen.pid).children(recursive=True)
        return [child for child in children if child.name().startswith("VLLM")]

    def kill(self) -> None:
        self.popen.send_signal(signal.SIGKILL)
        self.popen.wait(10)


class Services:
    """Starts inference processes of one FINERY_HOME."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._started: list[Service] = []
        self._children: list[psutil.Process] = []

    def start(self, engine: str = "fake", **environment: str) -> Service:
        number = len(self._started)
        announcement, log = self.home / f"{number}.json", self.home / f"{number}.log"
        variables = {
            "FINERY_HOME": str(self.home),
            "FINERY_INFERENCE_ENGINE": engine,
            "FINERY_INFERENCE_ANNOUNCE": str(announcement),
            "FINERY_INFERENCE_LISTEN": "127.0.0.1:0",
            **environment,
        }
        with log.open("wb") as file:
            command = [sys.executable, "-m", "finery_inference"]
            popen = subprocess.Popen(command, env={**os.environ, **variables}, stdout=file, stderr=file)
        self._started.append(Service(popen, announcement, log))
        return self._started[-1]

    def watch_over(self, processes: list[psutil.Process]) -> None:
        """Make sure that these are gone at the end, too."""
        self._children.extend(processes)

    def stop(self) -> None:
        for service in self._started:
            if service.popen.poll() is None:
                with contextlib.suppress(psutil.NoSuchProcess):
                    self._children.extend(service.engines())
                service.popen.kill()
            service.popen.wait(10)
        for child in self._children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()


class Client:
    """What the tests ask a service."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.deployments: Any = deployments_pb2_grpc.DeploymentServiceStub(channel)
        self.inference: Any = inference_pb2_grpc.InferenceServiceStub(channel)

    async def create(self, path: Path, name: str = "m", **spec: Any) -> None:
        deployment = d.DeploymentSpec(model={"model_id_or_path": str(path)}, served_model_name=name, **spec)
        await self.deployments.CreateDeployment(d.CreateDeploymentRequest(spec=deployment))

    async def until(self, state: d.DeploymentState.ValueType, name: str = "m", seconds: float = 120) -> d.Deployment:
        async with asyncio.timeout(seconds):
            async for snapshot in self.deployments.WatchDeployments(d.WatchDeploymentsRequest()):
                for deployment in snapshot.deployments:
                    if deployment.model_id == name and deployment.state == state:
                        return deployment  # type: ignore[no-any-return]
        raise AssertionError("the watch has ended")

    async def stats(self, name: str) -> d.GetDeploymentStatsResponse:
        request = d.GetDeploymentStatsRequest(name=name)
        return await self.deployments.GetDeploymentStats(request)  # type: ignore[no-any-return]

    async def settled(self, name: str, wanted: Callable[[int], bool], seconds: float = 5) -> bool:
        """Whether the engine has so many requests, running and waiting together, before the time is over."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            stats = await self.stats(name)
            if wanted(stats.running_requests + stats.waiting_requests):
                return True
            await asyncio.sleep(0.02)
        return False

    def generate(self, text: str, **sampling: Any) -> Any:
        chat = {"messages": [{"role": i.CHAT_ROLE_USER, "content": text}]}
        return self.inference.Generate(i.GenerateRequest(model="m", chat=chat, sampling=sampling))

    async def answer(self, text: str, **sampling: Any) -> tuple[str, i.GenerateComplete]:
        events = [event async for event in self.generate(text, **sampling)]
        return "".join(event.chunk.text for event in events[:-1]), events[-1].complete


@contextlib.asynccontextmanager
async def connect(service: Service, security: RpcSecurity | None = None) -> Any:
    channel = open_channel(await asyncio.to_thread(service.address), security or RpcSecurity())
    yield Client(channel)
    await channel.close()


@contextlib.contextmanager
def gone_within(seconds: float, processes: list[psutil.Process]) -> Iterator[None]:
    """The processes end within so many seconds after the block."""
    assert processes and all(process.is_running() for process in processes)
    yield
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


async def reason_of(call: Any) -> str:
    """Why a stream failed."""
    try:
        async for _ in call:
            pass
    except grpc.aio.AioRpcError as error:
        return str(from_rpc_error(error, "the service").reason)
    return "it did not fail"
