"""A real gRPC server that answers as an inference process would, by a script instead of a model.

`python -m tests.fakes.inference_service --model NAME --announce FILE` runs one as a process of its own.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finery.inference.v1 import deployments_pb2 as deployments
from finery.inference.v1 import deployments_pb2_grpc, inference_pb2_grpc
from finery.inference.v1 import inference_pb2 as pb
from finery_shared.errors import FineryError, Reason
from finery_shared.log import logger
from finery_shared.rpc import RpcSecurity, RpcServer, Servicer
from finery_shared.rpc.process import run_process


@dataclass(frozen=True)
class Script:
    """How one generation goes."""

    pieces: Sequence[str | pb.ToolCallDelta] = ("Hello", ", ", "world")
    first_delay: float = 0.0
    delay: float = 0.0
    failure: FineryError | None = None
    fails_after: int = 0
    """Pieces that are sent before ``failure``."""
    breaks_off: bool = False
    """End without the complete message."""
    finish: pb.FinishReason.ValueType = pb.FINISH_REASON_STOP
    usage: pb.Usage | None = None
    logprobs: Sequence[Sequence[pb.PositionLogprobs]] = ()
    """Of each piece."""


class FakeInference:
    """One inference process: its deployments, what it was asked, and what became of it."""

    def __init__(
        self,
        models: Sequence[str] = ("toy",),
        listen: str = "127.0.0.1:0",
        heartbeat: float = 0.2,
        security: RpcSecurity | None = None,
    ) -> None:
        self.script: Callable[[pb.GenerateRequest], Script] = lambda request: Script()
        self.requests: list[pb.GenerateRequest] = []
        self.tokenized: list[pb.TokenizeRequest] = []
        self.tokenize_failure: FineryError | None = None
        self.request_ids: list[str] = []
        self.timeouts: list[float] = []
        self.running = 0
        self.cancelled = 0
        self.finished = 0
        self.silent = False
        """Send no heartbeats: what a process that hangs looks like."""
        self.watch_failure: FineryError | None = None
        """Ends every watch."""
        self.address = ""
        self._deployments = [deployment(model, created=i + 1) for i, model in enumerate(models)]
        self._draining = False
        self._revision = 1
        self._changed = asyncio.Event()
        self._heartbeat = heartbeat
        self._server = RpcServer(listen, self._servicers(), logger("fake"), security=security or RpcSecurity())

    def _servicers(self) -> list[Servicer]:
        return [
            Servicer(
                "finery.inference.v1.DeploymentService",
                deployments_pb2_grpc.add_DeploymentServiceServicer_to_server,
                _Deployments(self),
            ),
            Servicer(
                "finery.inference.v1.InferenceService",
                inference_pb2_grpc.add_InferenceServiceServicer_to_server,
                _Inference(self),
            ),
        ]

    async def start(self) -> str:
        self.address = await self._server.start()
        return self.address

    async def stop(self, grace: float = 0.0) -> None:
        await self._server.stop(grace)

    def set_deployments(self, *items: deployments.Deployment, draining: bool = False) -> None:
        self._deployments, self._draining = list(items), draining
        self._revision += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def snapshots(self) -> AsyncIterator[deployments.WatchDeploymentsResponse]:
        while True:
            if self.watch_failure is not None:
                raise self.watch_failure
            if not self.silent:
                yield deployments.WatchDeploymentsResponse(
                    revision=self._revision, deployments=self._deployments, draining=self._draining
                )
            try:
                await asyncio.wait_for(self._changed.wait(), self._heartbeat)
            except TimeoutError:
                continue

    async def generate(self, request: pb.GenerateRequest) -> AsyncIterator[pb.GenerateResponse]:
        self.requests.append(request)
        self.running += 1
        done = False
        try:
            async for event in play(self.script(request), request):
                yield event
            done = True
        except FineryError:
            done = True
            raise
        finally:
            self.running -= 1
            self.finished += done
            self.cancelled += not done


def deployment(
    model: str,
    state: deployments.DeploymentState.ValueType = deployments.DEPLOYMENT_STATE_READY,
    created: int = 1,
    error: str = "",
) -> deployments.Deployment:
    item = deployments.Deployment(
        name=f"deployments/{model}", model_id=model, state=state, max_model_len=4096, model_type="toy-chat"
    )
    item.create_time.FromSeconds(1_700_000_000 + created)
    if error:
        item.error.CopyFrom(deployments.DeploymentError(reason="ENGINE_DEAD", message=error))
    return item


def adapter(
    model: str,
    state: deployments.DeploymentState.ValueType = deployments.DEPLOYMENT_STATE_READY,
    created: int = 2,
    error: str = "",
) -> deployments.Adapter:
    item = deployments.Adapter(name=f"deployments/d/adapters/{model}", model_id=model, state=state)
    item.spec.ckpt_dir = f"/output/{model}"
    item.create_time.FromSeconds(1_700_000_000 + created)
    if error:
        item.error.CopyFrom(deployments.DeploymentError(reason="DATA_LOSS", message=error))
    return item


async def play(script: Script, request: pb.GenerateRequest) -> AsyncIterator[pb.GenerateResponse]:
    """The events of one generation; the answers of n > 1 take turns."""
    answers = request.sampling.n or 1
    await asyncio.sleep(script.first_delay)
    for position, piece in enumerate(script.pieces):
        if script.failure is not None and position == script.fails_after:
            raise script.failure
        if position and script.delay:
            await asyncio.sleep(script.delay)
        for index in range(answers):
            said = {"text": piece} if isinstance(piece, str) else {"tool_calls": [piece]}
            chunk = pb.GenerateChunk(index=index, token_ids=[position], completion_tokens=position + 1, **said)
            chunk.logprobs.extend(script.logprobs[position] if script.logprobs else ())
            yield pb.GenerateResponse(chunk=chunk)
    if script.failure is not None:
        raise script.failure
    if not script.breaks_off:
        finishes = [pb.ChoiceFinish(index=i, finish_reason=script.finish) for i in range(answers)]
        usage = script.usage or pb.Usage(prompt_tokens=7, completion_tokens=len(script.pieces) * answers)
        yield pb.GenerateResponse(complete=pb.GenerateComplete(finishes=finishes, usage=usage))


class _Deployments(deployments_pb2_grpc.DeploymentServiceServicer):
    def __init__(self, fake: FakeInference) -> None:
        self._fake = fake

    def WatchDeployments(self, request: Any, context: Any) -> AsyncIterator[deployments.WatchDeploymentsResponse]:
        return self._fake.snapshots()

    def _refuse(self, request: Any, context: Any) -> Any:
        raise FineryError(Reason.UNSUPPORTED, "The fake serves what it was made with.")

    CreateDeployment = GetDeployment = ListDeployments = DeleteDeployment = GetDeploymentStats = _refuse
    CreateAdapter = GetAdapter = ListAdapters = DeleteAdapter = _refuse


class _Inference(inference_pb2_grpc.InferenceServiceServicer):
    def __init__(self, fake: FakeInference) -> None:
        self._fake = fake

    def Generate(self, request: pb.GenerateRequest, context: Any) -> AsyncIterator[pb.GenerateResponse]:
        self._fake.request_ids += [v for k, v in context.invocation_metadata() if k == "x-request-id"]
        self._fake.timeouts.append(context.time_remaining())
        return self._fake.generate(request)

    async def Tokenize(self, request: pb.TokenizeRequest, context: Any) -> pb.TokenizeResponse:
        self._fake.tokenized.append(request)
        if self._fake.tokenize_failure is not None:
            raise self._fake.tokenize_failure
        return pb.TokenizeResponse(token_ids=[1, 2, 3], max_model_len=4096)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="toy")
    parser.add_argument("--listen", default="127.0.0.1:0")
    parser.add_argument("--announce", type=Path, required=True)
    parser.add_argument("--pieces", type=int, default=3)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--failures", type=int, default=0, help="requests that fail before the first one that does not")
    parser.add_argument("--reason", type=Reason, default=Reason.QUEUE_FULL)
    options = parser.parse_args()

    def build() -> FakeInference:
        fake = FakeInference([options.model], options.listen, security=RpcSecurity.from_env(os.environ))
        script = Script(pieces=[f"piece{i} " for i in range(options.pieces)], delay=options.delay)
        failing = Script(failure=FineryError(options.reason, "Not now."))
        fake.script = lambda request: failing if len(fake.requests) <= options.failures else script
        return fake

    return run_process("fake-inference", build, lambda: options.announce)


if __name__ == "__main__":
    sys.exit(main())
