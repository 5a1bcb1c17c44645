"""Deployments: models that inference processes have loaded."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from finery.inference.v1 import deployments_pb2 as proto
from finery.inference.v1.deployments_pb2_grpc import DeploymentServiceStub
from finery_client.calls import Calls
from finery_client.endpoints import Endpoint
from finery_shared.errors import FineryError, Reason

READY = proto.DEPLOYMENT_STATE_READY
FAILED = proto.DEPLOYMENT_STATE_FAILED

WATCH_SECONDS = 30.0
"""Longest single watch: a stream that went silent is opened again."""

LOST_SECONDS = 60.0
"""How long an inference process may be away while it loads a model."""

OnState = Callable[[proto.Deployment], None]


@dataclass(frozen=True)
class Placed:
    """A deployment and the process that has it."""

    deployment: proto.Deployment
    endpoint: Endpoint


class Deployments:
    """The deployments of one inference process. Every method raises FineryError."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._stub = DeploymentServiceStub(calls.channel)

    def create(self, spec: proto.DeploymentSpec) -> proto.Deployment:
        """Store a deployment and begin to load it. Interrupted, it leaves none behind."""
        request = proto.CreateDeploymentRequest(spec=spec, request_id=str(uuid.uuid4()))
        try:
            return self._calls.unary(self._stub.CreateDeployment, request).deployment
        except FineryError:
            raise
        except BaseException:
            # Whether it was made is not known. The same request again makes nothing new, and tells its name.
            with contextlib.suppress(FineryError):
                self.delete(self._calls.unary(self._stub.CreateDeployment, request).deployment.name)
            raise

    def list(self) -> Sequence[proto.Deployment]:
        """All of them, oldest first."""
        request = proto.ListDeploymentsRequest(page_size=1000)
        return self._calls.unary(self._stub.ListDeployments, request).deployments

    def delete(self, name: str) -> None:
        """Unload a model and forget it."""
        self._calls.unary(self._stub.DeleteDeployment, proto.DeleteDeploymentRequest(name=name))

    def wait_ready(self, name: str, on_state: OnState | None = None) -> proto.Deployment:
        """Wait until a deployment answers requests.

        Raises the error of one that can't be loaded, DEPLOYMENT_NOT_FOUND if someone deletes it, SERVICE_UNAVAILABLE
        if the process stays away.
        """
        with contextlib.closing(self.snapshots()) as snapshots:
            for deployments in snapshots:
                deployment = _pick(deployments, name)
                if on_state is not None:
                    on_state(deployment)
                if deployment.state == READY:
                    return deployment
                if deployment.state == FAILED:
                    raise failure(deployment.model_id, deployment.error)
        raise AssertionError("snapshots never end")

    def snapshots(self) -> Generator[Sequence[proto.Deployment], None, None]:
        """All of them at once and after every change, for ever, through broken connections.

        Raises SERVICE_UNAVAILABLE if the process stays away.
        """
        last_sign = time.monotonic()
        while True:
            try:
                request = proto.WatchDeploymentsRequest()
                for message in self._calls.stream(self._stub.WatchDeployments, request, WATCH_SECONDS):
                    last_sign = time.monotonic()
                    yield message.deployments
            except FineryError as error:
                away = error.reason in (Reason.SERVICE_UNAVAILABLE, Reason.DEADLINE_EXCEEDED, Reason.CANCELLED)
                dead = self._calls.endpoint.death() is not None
                if not away or dead or time.monotonic() - last_sign > LOST_SECONDS:
                    raise
            time.sleep(0.5)


def _pick(deployments: Sequence[proto.Deployment], name: str) -> proto.Deployment:
    for deployment in deployments:
        if deployment.name == name:
            return deployment
    raise FineryError(Reason.DEPLOYMENT_NOT_FOUND, f"{name} was deleted while it was loading.", name=name)


def failure(model_id: str, error: proto.DeploymentError) -> FineryError:
    """Why a model or an adapter could not be loaded."""
    known = Reason(error.reason) if error.reason in Reason.__members__ else Reason.ENGINE_FAILED
    what = error.message or "the engine gave no reason; see the service's log"
    return FineryError(known, f"{model_id} could not be loaded: {what}", model=model_id)


def place(endpoints: Sequence[Endpoint], spec: proto.DeploymentSpec, replicas: int = 1) -> list[Placed]:
    """Create a deployment in each of the ``replicas`` processes that have the fewest; 0 is all of them.

    Raises MODEL_TAKEN when any process serves the model id already; nothing is left behind then.
    """
    existing = [_list(endpoint) for endpoint in endpoints]
    order = sorted(range(len(endpoints)), key=lambda index: (len(existing[index]), index))
    placed: list[Placed] = []
    try:
        for index in order[: replicas or len(order)]:
            with Calls(endpoints[index]) as calls:
                placed.append(Placed(Deployments(calls).create(spec), endpoints[index]))
            model_id = placed[-1].deployment.model_id
            if any(other.model_id == model_id for others in existing for other in others):
                raise _taken(model_id)
    except BaseException:
        remove_all(placed)
        raise
    return placed


def remove(placed: Placed) -> None:
    """Delete a deployment."""
    with Calls(placed.endpoint) as calls:
        Deployments(calls).delete(placed.deployment.name)


def remove_all(placed: Sequence[Placed]) -> None:
    """Delete those deployments that can be deleted: what keeps one from it must not hide why all this is undone."""
    for one in placed:
        with contextlib.suppress(FineryError):
            remove(one)


def _list(endpoint: Endpoint) -> Sequence[proto.Deployment]:
    with Calls(endpoint) as calls:
        return Deployments(calls).list()


def _taken(model_id: str) -> FineryError:
    return FineryError(
        Reason.MODEL_TAKEN,
        f"The model id {model_id!r} is taken by another deployment. Choose another one with --served_model_name, or "
        "delete that one: `finery deployments delete`.",
        model=model_id,
    )
