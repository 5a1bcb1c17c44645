"""Creating deployments, and being interrupted meanwhile."""

import _thread
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from finery.inference.v1 import deployments_pb2 as proto
from finery.inference.v1.deployments_pb2_grpc import (
    DeploymentServiceServicer,
    add_DeploymentServiceServicer_to_server,
)
from finery_client.deployments import place
from finery_client.endpoints import Endpoint


class Interrupting(DeploymentServiceServicer):
    """Stores a deployment, and has the client interrupted before it can answer. A repeated request finds it."""

    def __init__(self) -> None:
        self.stored: dict[str, str] = {}
        self.deleted: list[str] = []
        self._client_left = threading.Event()

    def ListDeployments(self, request: Any, context: Any) -> proto.ListDeploymentsResponse:
        return proto.ListDeploymentsResponse()

    def CreateDeployment(
        self, request: proto.CreateDeploymentRequest, context: grpc.ServicerContext
    ) -> proto.CreateDeploymentResponse:
        first = request.request_id not in self.stored
        name = self.stored.setdefault(request.request_id, f"deployments/{len(self.stored)}")
        if first:
            context.add_callback(self._client_left.set)
            _thread.interrupt_main()
            assert self._client_left.wait(30)
        return proto.CreateDeploymentResponse(deployment=proto.Deployment(name=name))

    def DeleteDeployment(self, request: proto.DeleteDeploymentRequest, context: Any) -> proto.DeleteDeploymentResponse:
        self.deleted.append(request.name)
        return proto.DeleteDeploymentResponse()


@pytest.fixture
def service() -> Iterator[tuple[Interrupting, Endpoint]]:
    servicer = Interrupting()
    server = grpc.server(ThreadPoolExecutor(4))
    add_DeploymentServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servicer, Endpoint("inference", f"127.0.0.1:{port}")
    server.stop(0).wait()


def test_an_interrupted_creation_is_undone(service: tuple[Interrupting, Endpoint]):
    servicer, endpoint = service
    with pytest.raises(KeyboardInterrupt):
        place([endpoint], proto.DeploymentSpec(ckpt_dir="/x"))
    assert len(servicer.stored) == 1
    assert servicer.deleted == list(servicer.stored.values())
