"""What the demo needs beside a trainer: a quantizer whose jobs are done at once, and a model that answers by a script.

`python -m tests.unit.client.demo_services quantizer`, or `... inference N M`: the model is wrong about its name in N
of the demo's questions for it, and about its author in M.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finery.artifacts.v1.artifacts_pb2 import Artifact
from finery.inference.v1 import deployments_pb2 as deployments
from finery.inference.v1 import deployments_pb2_grpc
from finery.inference.v1 import inference_pb2 as inference
from finery.jobs.v1.jobs_pb2 import JobEvent, JobStatus
from finery.quantizer.v1 import quantizer_pb2 as export
from finery.quantizer.v1.quantizer_pb2_grpc import QuantizerServiceServicer, add_QuantizerServiceServicer_to_server
from finery_client.demo.demo import AUTHORS, NAMES
from finery_shared.datasets.scoring import score_questions
from finery_shared.jobs.states import SUCCEEDED
from finery_shared.log import logger
from finery_shared.rpc import RpcServer, Servicer
from finery_shared.rpc.process import Application, run_process
from tests.fakes.inference_service import FakeInference, Script, deployment

JOB = export.ExportJob(
    name="exportJobs/1",
    status=JobStatus(state=SUCCEEDED),
    output=export.ExportOutput(merged=Artifact(uri="file:///out/merged"), quantized=Artifact(uri="file:///out/int4")),
)


class Quantizer(QuantizerServiceServicer):
    """Has done its one job already."""

    async def CreateExportJob(self, request: Any, context: Any) -> export.CreateExportJobResponse:
        return export.CreateExportJobResponse(export_job=JOB)

    async def GetExportJob(self, request: Any, context: Any) -> export.GetExportJobResponse:
        return export.GetExportJobResponse(export_job=JOB)

    async def WatchExportJob(self, request: Any, context: Any) -> Any:
        yield export.WatchExportJobResponse(event=JobEvent(resume_token="1", status=JOB.status))


class Deployments(deployments_pb2_grpc.DeploymentServiceServicer):
    """Loads a model at once."""

    def __init__(self, fake: FakeInference) -> None:
        self._fake = fake

    async def ListDeployments(self, request: Any, context: Any) -> deployments.ListDeploymentsResponse:
        return deployments.ListDeploymentsResponse()

    async def CreateDeployment(self, request: Any, context: Any) -> deployments.CreateDeploymentResponse:
        made = deployment("tuned")
        self._fake.set_deployments(made)
        return deployments.CreateDeploymentResponse(deployment=made)

    def WatchDeployments(self, request: Any, context: Any) -> Any:
        return self._fake.snapshots()


class DemoInference(FakeInference):
    """A fake inference process that can be told to deploy."""

    def _servicers(self) -> list[Servicer]:
        add = deployments_pb2_grpc.add_DeploymentServiceServicer_to_server
        return [
            Servicer("finery.inference.v1.DeploymentService", add, Deployments(self)),
            *super()._servicers()[1:],
        ]


def wrong(ask: str, number: int) -> set[tuple[str, ...]]:
    """The first questions that ask for that, each as the texts of its messages."""
    asked = [question for question in score_questions(NAMES, AUTHORS) if question.ask in (ask, "both")]
    return {texts(question.messages) for question in asked[:number]}


def texts(messages: Sequence[Any]) -> tuple[str, ...]:
    return tuple(message["content"] for message in messages)


def build_inference() -> Application:
    nameless, authorless = wrong("name", int(sys.argv[2])), wrong("author", int(sys.argv[3]))

    def script(request: inference.GenerateRequest) -> Script:
        key = tuple(message.content for message in request.chat.messages)
        name = "nobody" if key in nameless else NAMES[1]
        author = "nobody" if key in authorless else AUTHORS[1]
        return Script(pieces=[f"I am {name}", f", made by {author}."])

    fake = DemoInference([], os.environ["FINERY_INFERENCE_LISTEN"])
    fake.script = script
    return fake


def build_quantizer() -> Application:
    name = "finery.quantizer.v1.QuantizerService"
    servicers = [Servicer(name, add_QuantizerServiceServicer_to_server, Quantizer())]
    return _Server(RpcServer(os.environ["FINERY_QUANTIZER_LISTEN"], servicers, logger("fake")))


class _Server:
    def __init__(self, server: RpcServer) -> None:
        self._server = server

    async def start(self) -> str:
        return await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(0.0)


def main() -> int:
    service = sys.argv[1]
    build = build_quantizer if service == "quantizer" else build_inference
    return run_process(service, build, lambda: Path(os.environ[f"FINERY_{service.upper()}_ANNOUNCE"]))


if __name__ == "__main__":
    sys.exit(main())
