"""LoRA adapters beside deployed models."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from finery.inference.v1 import deployments_pb2 as proto
from finery.inference.v1.deployments_pb2_grpc import DeploymentServiceStub
from finery_client.calls import Calls
from finery_client.deployments import FAILED, READY, Deployments, Placed, failure
from finery_client.endpoints import Endpoint
from finery_shared.errors import FineryError, Reason

OnAdapterState = Callable[[proto.Adapter], None]


@dataclass(frozen=True)
class PlacedAdapter:
    """An adapter, its base and the process that has them."""

    adapter: proto.Adapter
    base: Placed

    @property
    def endpoint(self) -> Endpoint:
        """Where it is."""
        return self.base.endpoint


class Adapters:
    """The adapters of one inference process. Every method raises FineryError."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._stub = DeploymentServiceStub(calls.channel)

    def create(self, parent: str, spec: proto.AdapterSpec) -> proto.Adapter:
        """Store an adapter and begin to load it. Interrupted, it leaves none behind."""
        request = proto.CreateAdapterRequest(parent=parent, spec=spec, request_id=str(uuid.uuid4()))
        try:
            return self._calls.unary(self._stub.CreateAdapter, request).adapter
        except FineryError:
            raise
        except BaseException:
            # Whether it was made is not known. The same request again makes nothing new, and tells its name.
            with contextlib.suppress(FineryError):
                self.delete(self._calls.unary(self._stub.CreateAdapter, request).adapter.name)
            raise

    def delete(self, name: str) -> None:
        """Unload an adapter and forget it."""
        self._calls.unary(self._stub.DeleteAdapter, proto.DeleteAdapterRequest(name=name))

    def wait_ready(self, name: str, on_state: OnAdapterState | None = None) -> proto.Adapter:
        """Wait until an adapter answers requests; raises as `Deployments.wait_ready`."""
        with contextlib.closing(Deployments(self._calls).snapshots()) as snapshots:
            for deployments in snapshots:
                adapter = _pick(deployments, name)
                if on_state is not None:
                    on_state(adapter)
                if adapter.state == READY:
                    return adapter
                if adapter.state == FAILED:
                    raise failure(adapter.model_id, adapter.error)
        raise AssertionError("snapshots never end")


def add(
    bases: Sequence[Placed], spec: proto.AdapterSpec, on_state: OnAdapterState | None = None
) -> list[PlacedAdapter]:
    """Load an adapter beside each of these deployments, and wait until all answer. What fails leaves none behind."""
    placed: list[PlacedAdapter] = []
    try:
        for base in bases:
            with Calls(base.endpoint) as calls:
                placed.append(PlacedAdapter(Adapters(calls).create(base.deployment.name, spec), base))
        return [_wait(one, on_state) for one in placed]
    except BaseException:
        for one in placed:
            with contextlib.suppress(FineryError):
                remove(one)
        raise


def remove(placed: PlacedAdapter) -> None:
    """Delete an adapter."""
    with Calls(placed.endpoint) as calls:
        Adapters(calls).delete(placed.adapter.name)


def _wait(placed: PlacedAdapter, on_state: OnAdapterState | None) -> PlacedAdapter:
    with Calls(placed.endpoint) as calls:
        return PlacedAdapter(Adapters(calls).wait_ready(placed.adapter.name, on_state), placed.base)


def _pick(deployments: Sequence[proto.Deployment], name: str) -> proto.Adapter:
    for adapter in (adapter for deployment in deployments for adapter in deployment.adapters):
        if adapter.name == name:
            return adapter
    raise FineryError(Reason.DEPLOYMENT_NOT_FOUND, f"{name} was deleted while it was loading.", name=name)
