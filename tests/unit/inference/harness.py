"""An inference process inside the test's: a real gRPC server, manager and database, and the fake engine."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine

from finery.inference.v1 import deployments_pb2 as d
from finery.inference.v1 import deployments_pb2_grpc, inference_pb2_grpc
from finery.inference.v1 import inference_pb2 as i
from finery_inference.app import DEPLOYMENT_SERVICE, INFERENCE_SERVICE, InferenceProcess
from finery_inference.deployments.adapter_manager import AdapterManager
from finery_inference.deployments.adapter_source import AdapterResolver
from finery_inference.deployments.manager import DeploymentManager
from finery_inference.deployments.restart import RestartPolicy
from finery_inference.deployments.source import SourceResolver
from finery_inference.deployments.store import DeploymentStore
from finery_inference.deployments.watchdog import Watchdog
from finery_inference.engines.fake import FakeEngineFactory, FakePace
from finery_inference.generation.generator import Generator
from finery_inference.metrics import DeploymentCollector
from finery_inference.servicer import DeploymentServicer, InferenceServicer
from finery_inference.settings import Settings
from finery_shared.artifacts import Kind, Manifest, hash_files, write_manifest
from finery_shared.errors import FineryError
from finery_shared.jobs.ownership import OwnerLock
from finery_shared.jobs.schema import open_sqlite
from finery_shared.log import logger
from finery_shared.metrics import MetricsEndpoint
from finery_shared.models import ModelHub
from finery_shared.rpc import RpcServer, Servicer, from_rpc_error, open_channel
from tests.fakes.toy_model import write_model


def write_artifact(path: Path, kind: Kind = Kind.MODEL) -> Path:
    """A model directory with a manifest."""
    return add_manifest(write_model(path), kind)


def add_manifest(path: Path, kind: Kind = Kind.MODEL) -> Path:
    """Describe what lies there."""
    values: dict[str, Any] = {
        "model_type": "toy-chat",
        "base_model": "toy",
        "template": "chatml",
        "job": "exportJobs/1",
    }
    write_manifest(path, Manifest(kind=kind, recipe={}, metrics={}, files=hash_files(path), **values))
    return path


class Harness:
    """One process; ``start`` and ``stop`` it, and ask it by gRPC."""

    def __init__(
        self,
        home: Path,
        pace: FakePace | None = None,
        policy: RestartPolicy | None = None,
        store: Callable[[Engine], DeploymentStore] = DeploymentStore,
        hubs: Sequence[ModelHub] = (),
        most: int = 2048,
        hung_seconds: float = 0.0,
        factory: FakeEngineFactory | None = None,
    ) -> None:
        self.home = home
        self.factory = factory or FakeEngineFactory(pace or FakePace(tokens_per_second=2000))
        settings = Settings(listen="127.0.0.1:0", home=home, drain_seconds=5)
        log = logger("test")
        self.store = store(open_sqlite(settings.state / "deployments.db"))
        sources = SourceResolver(home / "models", hubs, settings.check_path)
        policy = policy or RestartPolicy(first=0.05, attempts=3)
        adapter_sources = AdapterResolver(settings.check_path)
        backends = {"vllm": self.factory, "transformers": self.factory}
        watchdog = Watchdog(hung_seconds)
        manager = DeploymentManager(self.store, sources, adapter_sources, backends, policy, watchdog, log)
        self.manager = manager
        adapters = AdapterManager(manager, self.store, adapter_sources)
        self.generator = Generator(manager.model, most)
        add_deployments = deployments_pb2_grpc.add_DeploymentServiceServicer_to_server
        add_inference = inference_pb2_grpc.add_InferenceServiceServicer_to_server
        servicers = [
            Servicer(DEPLOYMENT_SERVICE, add_deployments, DeploymentServicer(manager, adapters)),
            Servicer(INFERENCE_SERVICE, add_inference, InferenceServicer(self.generator), serving=False),
        ]
        self.registry = CollectorRegistry()
        self.registry.register(DeploymentCollector(manager))
        server = RpcServer(settings.listen, servicers, log, self.registry)
        lock = OwnerLock(settings.state)
        drain = settings.drain_seconds
        self.process = InferenceProcess(
            lock, server, manager, self.generator, MetricsEndpoint(None, self.registry, log), drain, log
        )
        self.channel: grpc.aio.Channel
        self.deployments: Any
        self.inference: Any

    async def start(self) -> None:
        self.channel = open_channel(await self.process.start())
        self.deployments = deployments_pb2_grpc.DeploymentServiceStub(self.channel)
        self.inference = inference_pb2_grpc.InferenceServiceStub(self.channel)

    async def stop(self) -> None:
        await self.process.stop()
        await self.channel.close()

    async def create(self, request_id: str = "", **spec: Any) -> d.Deployment:
        request = d.CreateDeploymentRequest(spec=d.DeploymentSpec(**spec), request_id=request_id)
        response: d.CreateDeploymentResponse = await self.deployments.CreateDeployment(request)
        return response.deployment

    async def deploy(self, path: Path, name: str = "m", **spec: Any) -> d.Deployment:
        await self.create(model={"model_id_or_path": str(path)}, served_model_name=name, **spec)
        return await self.until(name, d.DEPLOYMENT_STATE_READY)

    async def list(self) -> list[d.Deployment]:
        return list((await self.deployments.ListDeployments(d.ListDeploymentsRequest())).deployments)

    async def until(self, model_id: str, state: d.DeploymentState.ValueType) -> d.Deployment:
        """Watch until a model is in a state."""
        async with asyncio.timeout(10):
            async for snapshot in self.deployments.WatchDeployments(d.WatchDeploymentsRequest()):
                for deployment in snapshot.deployments:
                    if deployment.model_id == model_id and deployment.state == state:
                        return deployment  # type: ignore[no-any-return]
        raise AssertionError("the watch has ended")

    async def health(self, service: str = INFERENCE_SERVICE) -> bool:
        stub = health_pb2_grpc.HealthStub(self.channel)
        response = await stub.Check(health_pb2.HealthCheckRequest(service=service))
        return bool(response.status == health_pb2.HealthCheckResponse.SERVING)

    def generate(self, text: str = "hi", model: str = "m", **sampling: Any) -> Any:
        chat = {"messages": [{"role": i.CHAT_ROLE_USER, "content": text}]}
        return self.inference.Generate(i.GenerateRequest(model=model, chat=chat, sampling=sampling))

    async def answer(self, text: str = "hi", model: str = "m", **sampling: Any) -> tuple[str, i.GenerateComplete]:
        events = [event async for event in self.generate(text, model, **sampling)]
        assert events[-1].HasField("complete")
        return "".join(event.chunk.text for event in events[:-1]), events[-1].complete


async def refusal(call: Any) -> FineryError:
    """The error that a call ends with."""
    try:
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error, "the inference service")
    raise AssertionError("the call was not refused")


async def eventually(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)
