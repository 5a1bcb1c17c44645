"""One inference process, as the gateway knows it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import grpc

from finery.inference.v1 import deployments_pb2, deployments_pb2_grpc, inference_pb2, inference_pb2_grpc
from finery_gateway.routing.served import Served, served_by

GenerateCall = grpc.aio.UnaryStreamCall[inference_pb2.GenerateRequest, inference_pb2.GenerateResponse]
WatchCall = grpc.aio.UnaryStreamCall[deployments_pb2.WatchDeploymentsRequest, deployments_pb2.WatchDeploymentsResponse]
Metadata = Sequence[tuple[str, str]]


class Backend:
    """A channel to one inference process, what it serves, and the generations that run there."""

    def __init__(self, address: str, channel: grpc.aio.Channel, clock: Callable[[], float]) -> None:
        self.address = address
        self.connected = False
        self.draining = False
        self.served: dict[str, Served] = {}
        self._channel = channel
        self._clock = clock
        self._heard_at = float("-inf")
        self._running: set[GenerateCall] = set()
        self._inference = inference_pb2_grpc.InferenceServiceStub(channel)
        self._deployments = deployments_pb2_grpc.DeploymentServiceStub(channel)

    @property
    def in_flight(self) -> int:
        """Generations of this gateway process that run there."""
        return len(self._running)

    @property
    def silence(self) -> float:
        """Seconds since its last snapshot."""
        return self._clock() - self._heard_at

    def is_ready(self, model: str) -> bool:
        """Whether it can be sent a request for a model now."""
        served = self.served.get(model)
        return (
            served is not None
            and self.connected
            and not self.draining
            and served.state == deployments_pb2.DEPLOYMENT_STATE_READY
        )

    def watch(self) -> WatchCall:
        """A stream of snapshots."""
        return self._deployments.WatchDeployments(deployments_pb2.WatchDeploymentsRequest())

    def generate(self, request: inference_pb2.GenerateRequest, metadata: Metadata, timeout: float) -> GenerateCall:
        """Start a generation; ``release`` must follow. ``timeout`` is in seconds."""
        call = self._inference.Generate(request, metadata=metadata, timeout=timeout)
        self._running.add(call)
        return call

    def tokenize(
        self, request: inference_pb2.TokenizeRequest, metadata: Metadata, timeout: float
    ) -> Awaitable[inference_pb2.TokenizeResponse]:
        """The tokens of a prompt. ``timeout`` is in seconds."""
        return self._inference.Tokenize(request, metadata=metadata, timeout=timeout)

    def release(self, call: GenerateCall) -> None:
        """Forget a generation, cancelling what is left of it."""
        self._running.discard(call)
        call.cancel()

    def hear(self, snapshot: deployments_pb2.WatchDeploymentsResponse) -> None:
        """Take a snapshot in: it replaces the one before."""
        self._heard_at = self._clock()
        self.connected = True
        self.draining = snapshot.draining
        self.served = {served.model_id: served for d in snapshot.deployments for served in served_by(d)}

    def lose(self) -> None:
        """The process can't be heard any more. What it served is remembered, so that errors can tell."""
        self.connected = False

    def abandon(self) -> None:
        """End all generations there."""
        for call in list(self._running):
            call.cancel()

    async def close(self, grace: float | None = None) -> None:
        """Close the channel when its generations have ended, after ``grace`` seconds at the latest."""
        self.lose()
        await self._channel.close(grace)
