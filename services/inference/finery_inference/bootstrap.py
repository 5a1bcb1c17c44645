"""The inference service, wired: the only file that picks real implementations."""

from __future__ import annotations

import os
from collections.abc import Mapping

from prometheus_client import CollectorRegistry

from finery.inference.v1 import deployments_pb2_grpc, inference_pb2_grpc
from finery_inference.app import DEPLOYMENT_SERVICE, INFERENCE_SERVICE, InferenceProcess
from finery_inference.deployments.adapter_manager import AdapterManager
from finery_inference.deployments.adapter_source import AdapterResolver
from finery_inference.deployments.manager import DeploymentManager
from finery_inference.deployments.restart import RestartPolicy
from finery_inference.deployments.source import SourceResolver
from finery_inference.deployments.store import DeploymentStore
from finery_inference.deployments.watchdog import Watchdog
from finery_inference.engines.fake import FakeEngineFactory, FakePace
from finery_inference.engines.protocol import EngineFactory
from finery_inference.engines.transformers.factory import TransformersFactory
from finery_inference.engines.vllm.environment import scratch_directory, vllm_environment
from finery_inference.engines.vllm.factory import VllmFactory
from finery_inference.engines.vllm.hardware import Hardware, is_cpu_build
from finery_inference.generation.generator import Generator
from finery_inference.metrics import DeploymentCollector
from finery_inference.servicer import DeploymentServicer, InferenceServicer
from finery_inference.settings import Settings
from finery_shared.home import Home
from finery_shared.jobs.ownership import OwnerLock
from finery_shared.jobs.schema import open_sqlite
from finery_shared.log import logger
from finery_shared.metrics import MetricsEndpoint
from finery_shared.models import hubs_from
from finery_shared.rpc import RpcServer, Servicer


def build(settings: Settings) -> InferenceProcess:
    """An inference process, not started; must be called in its event loop. Sets vLLM's environment variables."""
    log = logger("inference")
    sources = SourceResolver(Home(settings.home).models, hubs_from(os.environ), settings.check_path)
    store = DeploymentStore(open_sqlite(settings.state / "deployments.db"))
    watchdog = Watchdog(settings.hung_seconds)
    adapter_sources = AdapterResolver(settings.check_path)
    backends = engine_factories(settings)
    manager = DeploymentManager(store, sources, adapter_sources, backends, RestartPolicy(), watchdog, log)
    adapters = AdapterManager(manager, store, adapter_sources)
    registry = CollectorRegistry()
    registry.register(DeploymentCollector(manager))
    generator = Generator(manager.model, settings.max_requests)
    server = RpcServer(
        settings.listen,
        [
            Servicer(
                DEPLOYMENT_SERVICE,
                deployments_pb2_grpc.add_DeploymentServiceServicer_to_server,
                DeploymentServicer(manager, adapters),
            ),
            Servicer(
                INFERENCE_SERVICE,
                inference_pb2_grpc.add_InferenceServiceServicer_to_server,
                InferenceServicer(generator),
                serving=False,
            ),
        ],
        log,
        registry,
        settings.rpc,
    )
    metrics = MetricsEndpoint(settings.metrics_listen, registry, log)
    return InferenceProcess(OwnerLock(settings.state), server, manager, generator, metrics, settings.drain_seconds, log)


def engine_factories(settings: Settings) -> Mapping[str, EngineFactory]:
    """What starts engines in this process, by the name of the inference backend."""
    if settings.engine == "fake":
        pace = FakePace(
            settings.fake_start_seconds,
            settings.fake_first_token_seconds,
            settings.fake_tokens_per_second,
            settings.fake_tokens_per_delta,
            settings.fake_answer_tokens,
            settings.fake_echo,
        )
        fake = FakeEngineFactory(pace)
        return {"vllm": fake, "transformers": fake}
    cache = settings.cpu_kv_cache_mib * 2**20
    hardware = Hardware(is_cpu_build(), cache, settings.cpu_threads)
    scratch = scratch_directory(settings.state)
    os.environ.update(vllm_environment(hardware, os.getpid(), settings.state, scratch))
    return {"vllm": VllmFactory(hardware, scratch), "transformers": TransformersFactory(hardware.cpu_threads, cache)}
